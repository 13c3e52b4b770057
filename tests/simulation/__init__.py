"""
A deterministic simulation: years of sessions in minutes, with everything going wrong.

Real: the scheduler (decide, claim, plan, rescue, reconcile, election), `Attempts`, and every SQL
statement, on a SQLite in memory. Modelled: the broker's lists, the workers' processes and children,
and the jobs. Time is an event queue; what is random is drawn from one seed, so that a seed is a
history. When nothing is queued and nobody is in trouble, time leaps to the next thing due, and
each process makes only the last of the rounds it would have made.

Each change of state is checked by triggers of the database; each loss of a worker or an attempt by
whether that worker was in trouble; each run by what its jobs were written to do, by what they
wrote, and by how long anything in it waited while nothing was wrong; and each year by
`prometheus.verification`.

What one transaction of PostgreSQL does in the midst of another is not seen here: SQLite has them
one after another. Races between statements are for the tests with real servers.

What is promised under a clock that is set: the database's clock may be off by up to 8 s, in steps
of at most 5 s, forwards and backwards. A lead may then pass early, and a worker that was slow to
renew may be given up; nothing starts twice or outside its window by that clock, nothing is lost.

``python -m tests.simulation --seed N`` repeats a year, ``--defect`` breaks something on purpose.
"""
