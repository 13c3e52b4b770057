-- What an installation has besides its runs, which are in dag_runs already. Beside them are the
-- temporary tables bench_sessions (what became of each run), bench_jobs and bench_markets.

-- Every attempt of every job, in the order in which they would be written.
INSERT INTO job_executions (execution_id, dag_id, job_id, job_type, market_id, as_of_date, status,
    attempt_number, retries, lost, queue, priority, forced, timeout_seconds, window_opens_at,
    window_closes_at, scheduled_at, scheduled_market_at, published_at, publish_count, started_at,
    started_market_at, named_at, hard_limit_at, worker, incarnation, completed_at, error_message,
    error_details, result, created_at, updated_at, pid)
SELECT gen_random_uuid()::text, dag_id, job_id, job_id, market_id, as_of_date, state, n, n - 1, 0,
    market_id, 2, false, 3600, closes_at, closes_at + interval '14 hours',
    due_at, due_at, due_at, CASE WHEN ran THEN 1 ELSE 0 END,
    CASE WHEN ran THEN due_at + interval '1 s' END, CASE WHEN ran THEN due_at + interval '1 s' END,
    CASE WHEN ran THEN due_at + took END, CASE WHEN ran THEN due_at + interval '1 hour' END,
    CASE WHEN ran THEN lower(market_id) || '@worker-' || (1 + at % 3) END,
    CASE WHEN ran THEN md5(market_id || date_trunc('week', as_of_date))::uuid::text END,
    due_at + took,
    CASE WHEN state NOT IN ('SUCCESS') THEN 'ConnectionError: the vendor does not answer' END,
    CASE WHEN state = 'FAILED' THEN
        jsonb_build_object('type', 'ConnectionError', 'traceback',
            repeat('  File "x.py"' || chr(10), 20))
    END,
    CASE WHEN state = 'SUCCESS' THEN jsonb_build_object('rows', 500 + at) END,
    CASE WHEN n = 1 THEN opens_at ELSE due_at - interval '1 min' END, due_at + took,
    CASE WHEN ran THEN 4000 + at END
FROM (
    SELECT *,
        closes_at + at * interval '3 min' + n * interval '5 min' AS due_at,
        interval '30 s' + luck * interval '120 s' AS took,
        state IN ('SUCCESS', 'FAILED') AS ran
    FROM (
        SELECT r.*, b.closes_at, s.job_id, s.at, l.luck, n,
            CASE
                WHEN b.fate = 'expired' THEN 'EXPIRED'
                WHEN s.at > b.breaks_at THEN 'SKIPPED'
                WHEN s.at = b.breaks_at AND b.fate = 'cancelled' THEN 'CANCELLED'
                WHEN s.at = b.breaks_at OR n < l.tries THEN 'FAILED'
                ELSE 'SUCCESS'
            END AS state
        FROM dag_runs r JOIN bench_sessions b USING (dag_id) CROSS JOIN bench_jobs s
        CROSS JOIN LATERAL (
            SELECT luck, CASE
                WHEN b.fate IN ('expired', 'cancelled') OR s.at > b.breaks_at THEN 1
                WHEN s.at = b.breaks_at THEN 4
                WHEN luck < 0.04 THEN 2
                ELSE 1
            END AS tries
            FROM (SELECT random() + 0 * length(r.dag_id || s.at) AS luck) AS drawn
        ) AS l
        CROSS JOIN LATERAL generate_series(1, l.tries) AS n
    ) AS attempts
) AS timed
ORDER BY opens_at, dag_id, at, n;

-- The last session of each market is at work in two pipelines.
CREATE TEMP TABLE bench_open AS
SELECT DISTINCT ON (pipeline, market_id) dag_id, market_id FROM dag_runs
WHERE pipeline IN ('daily', 'risk') ORDER BY pipeline, market_id, as_of_date DESC;

DELETE FROM job_executions
WHERE attempt_number > 1 AND dag_id IN (SELECT dag_id FROM bench_open);

UPDATE dag_runs SET status = 'OPEN', completed_at = NULL
WHERE dag_id IN (SELECT dag_id FROM bench_open);

UPDATE job_executions e SET
    status = CASE WHEN at < 5 THEN 'SUCCESS' WHEN at = 5 THEN 'RUNNING'
        WHEN at = 6 THEN 'QUEUED' ELSE 'PENDING' END,
    scheduled_at = CASE WHEN at < 7 THEN now() - interval '5 min' END,
    started_at = CASE WHEN at < 6 THEN now() - interval '4 min' END,
    named_at = CASE WHEN at = 5 THEN now() END,
    hard_limit_at = CASE WHEN at < 6 THEN now() + interval '1 hour' END,
    completed_at = CASE WHEN at < 5 THEN now() - interval '1 min' END,
    worker = CASE WHEN at < 6 THEN lower(market_id) || '@worker-1' END,
    incarnation = CASE WHEN at < 6 THEN 'alive-' || market_id || '-1' END,
    error_message = NULL, error_details = NULL
FROM bench_jobs j WHERE j.job_id = e.job_id AND dag_id IN (SELECT dag_id FROM bench_open);

-- What some attempts have logged.
INSERT INTO attempt_logs (execution_id, part, at, text)
SELECT execution_id, part, completed_at,
    repeat('2026-11-20 21:00:01 INFO read 503 rows' || chr(10), 50)
FROM (SELECT * FROM job_executions WHERE completed_at > started_at AND random() < 0.02) AS e
CROSS JOIN generate_series(1, 3) AS part;

-- Workers that have ended, those that are alive, and one of each market whose lease has run out.
INSERT INTO worker_incarnations (incarnation, worker, host, pid, queues, started_at, renewed_at,
    previous_renewed_at, expires_at, ended_at)
SELECT gen_random_uuid()::text, lower(market) || '@worker-' || n % 3, 'worker-' || n % 3, n,
    jsonb_build_array(market), now() - n * interval '1 day', now() - n * interval '1 day',
    now() - n * interval '1 day', now() - n * interval '1 day', now() - n * interval '1 day'
FROM bench_markets AS m (market) CROSS JOIN generate_series(1, 500) AS n;

INSERT INTO worker_incarnations (incarnation, worker, host, pid, queues, expires_at)
SELECT 'alive-' || market || '-' || n, lower(market) || '@worker-' || n, 'worker-' || n, n,
    jsonb_build_array(market), now() + (CASE WHEN n < 4 THEN 1 ELSE -1 END) * interval '1 hour'
FROM bench_markets AS m (market) CROSS JOIN generate_series(1, 4) AS n;

-- Nobody renews the lead while the pages are asked for.
INSERT INTO leases (name, owner, epoch, expires_at, ticked_at)
VALUES ('beat', 'scheduler-1:7:1', 12, now() + interval '1 hour', now() + interval '1 hour');

-- What people have done; one of them once, years ago.
INSERT INTO audit (at, actor, action, target, details)
VALUES (now() - interval '9 years', 'zoe', 'user_add', 'zoe', '{}');

INSERT INTO audit (at, actor, action, target, details)
SELECT now() - (50000 - n) * interval '1 hour',
    (ARRAY['ada', 'bob', 'eve', 'scheduler'])[1 + n % 4],
    (ARRAY['retry', 'skip', 'calendar', 'pause', 'cancel'])[1 + n % 5], dag_id,
    jsonb_build_object('jobs', jsonb_build_array('run_signals'), 'reason', 'the vendor was late')
FROM (SELECT dag_id, row_number() OVER (ORDER BY opens_at, dag_id) AS n FROM dag_runs) AS r
WHERE n <= 50000;

-- What went wrong: of each run that failed, all of it over but in what is at work.
INSERT INTO alerts (key, kind, severity, markets, dag_id, pipeline, summary, details, subjects, since,
    raised_at, times, resolved_at, told, told_at, told_subjects)
SELECT 'job_failed:' || dag_id, 'job_failed', 'error', jsonb_build_array(market_id), dag_id, pipeline,
    'Jobs of ' || dag_id || ' failed', '["run_signals: the vendor does not answer"]',
    '["run_signals"]', opens_at, opens_at, 1, completed_at,
    CASE WHEN completed_at IS NULL THEN 'raised' ELSE 'resolved' END, opens_at, '["run_signals"]'
FROM dag_runs WHERE status IN ('FAILED', 'OPEN');

INSERT INTO alert_deliveries (alert_id, channel, event, title, body, state, tries, next_try_at,
    created_at, ended_at)
SELECT alert_id, 'desk', 'raised', summary, summary, 'sent', 1, since, since, since FROM alerts;

-- What was paused once, and what is.
INSERT INTO pauses (market_id, reason, author, paused_at, ended_at, ended_by)
SELECT 'US_EQ', 'the vendor is late', 'ada', now() - n * interval '1 day',
    now() - n * interval '1 day', 'bob'
FROM generate_series(1, 2000) AS n;

INSERT INTO pauses (market_id, reason, author) VALUES ('HK_EQ', 'a typhoon', 'ada');

INSERT INTO pauses (dag_id, job_id, reason, author)
SELECT dag_id, 'run_books', 'to be looked at', 'bob' FROM bench_open WHERE market_id <> 'HK_EQ';

-- What was said of sessions, some of which are to come.
INSERT INTO calendar_overrides (override_id, exchange, session, kind, closes, reason, source,
    announced_at, author)
SELECT n, 'XNYS', current_date + 60 - n * 7, 'early_close', '13:00', 'a storm', 'the exchange',
    now() - n * interval '7 days' - interval '1 day', 'ada'
FROM generate_series(1, 200) AS n;

-- What a feed has said in two years, of which nobody has decided anything.
INSERT INTO market_holidays (exchange, date, name, kind, source, fetched_at, state)
SELECT mic, current_date - n * 18, 'A holiday', 'closed', 'eodhd', now(), 'proposed'
FROM unnest(ARRAY['XNYS', 'XNAS', 'XPAR', 'XLON', 'XTKS', 'XHKG']) AS mic, generate_series(1, 40) AS n;

-- Runs that were made again, a hundred sessions at a time.
INSERT INTO backfills (pipeline, market_id, first_session, last_session, reprocess, max_active_runs,
    reason, author, created_at, ended_at)
SELECT 'daily', 'US_EQ', current_date - n * 10 - 150, current_date - n * 10, 'finished', 1,
    'new prices', 'ada', now() - n * interval '10 days',
    CASE WHEN n > 2 THEN now() - n * interval '10 days' + interval '1 day' END
FROM generate_series(1, 200) AS n;

INSERT INTO backfill_sessions (backfill_id, as_of_date, dag_id, again, begun_at)
SELECT backfill_id, as_of_date, dag_id, true, b.created_at
FROM backfills AS b JOIN dag_runs AS r ON r.pipeline = b.pipeline AND r.market_id = b.market_id
    AND r.as_of_date BETWEEN b.first_session AND b.last_session;
