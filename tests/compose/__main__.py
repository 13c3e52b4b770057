"""
Brings the shipped compose file up on a real engine, disturbs it, and looks at it from outside.

Prints what it has found, a line each, and ends with 1 at the first thing that is not so.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.compose import images
from tests.compose.engine import Engine, EngineError, find_engine
from tests.compose.leaks import Watch, found_in, found_in_image
from tests.servers import REPOSITORY, free_port, wait_until

PROJECT = "prometheus-compose-test"
LIVE = ("beat-1", "beat-2", "us-eq", "eu-eq", "asia-eq", "web", "flower")
WORKERS = ("us-eq", "eu-eq", "asia-eq")
REPLAY = ("--profile", "replay")
MARKETS = ["ASIA_EQ", "EU_EQ", "US_EQ"]
RUNS, JOBS = 8, 72
PATIENCE = 900.0
"""Seconds for anything at all: a small machine has two dozen processes to start."""


def say(text: str) -> None:
    """Print a line at once, with the time since the beginning."""
    print(f"{time.monotonic() - BEGAN:6.0f} s  {text}", flush=True)


BEGAN = time.monotonic()


class Trial:
    """One installation by the compose file."""

    def __init__(self, engine: Engine, checkout: Path, watch: Watch) -> None:
        self.engine = engine
        self.checkout = checkout
        self.watch = watch
        self.said = ""
        """The logs of containers that were removed."""
        self.ports = {
            "PROMETHEUS_REDIS_PORT": str(free_port()),
            "PROMETHEUS_WEB_PORT": str(free_port()),
            "PROMETHEUS_FLOWER_PORT": str(free_port()),
            "PROMETHEUS_REPLAY_WEB_PORT": str(free_port()),
            "PROMETHEUS_REPLAY_FLOWER_PORT": str(free_port()),
        }

    def compose(self, *arguments: str, check: bool = True) -> str:
        """Run a compose command on the project."""
        return self.engine.compose(
            "--project-name", PROJECT, *arguments, cwd=self.checkout, env=self.ports, check=check
        )

    def containers(self) -> dict[str, str]:
        """Service -> the id of its container, whether it runs or not."""
        lines = self.engine.docker(
            *("ps", "--all", "--no-trunc", "--filter"),
            f"label=com.docker.compose.project={PROJECT}",
            *("--format", '{{.Label "com.docker.compose.service"}} {{.ID}}'),
        ).splitlines()
        return dict(line.split() for line in lines)

    def inspect(self, service: str) -> Any:
        """What the engine says of a service's container."""
        return self.engine.documents("inspect", self.containers()[service])[0]

    def inside(self, service: str, *command: str, check: bool = True) -> str:
        """Run a command in a service's container."""
        return self.engine.docker("exec", self.containers()[service], *command, check=check)

    def secret(self, name: str) -> str:
        """Read one of the files with secrets."""
        return self.inside("redis", "cat", f"/secrets/{name}").strip()

    def sql(self, query: str, database: str = "replay") -> list[list[str]]:
        """Ask the database."""
        command = ("psql", "--username=prometheus", "--no-align", "--tuples-only", "--command")
        text = self.inside("postgres", *command, query, f"--dbname={database}")
        return [line.split("|") for line in text.splitlines()]

    def succeeded(self) -> int:
        """How many jobs of the replay have succeeded; -1 while the database is not there."""
        try:
            found = self.sql("SELECT count(*) FROM job_executions WHERE status = 'SUCCESS'")
        except EngineError:
            return -1
        return int(found[0][0])

    def wait_until_healthy(self, *services: str) -> None:
        """Wait until the engine says so of all of them."""

        def healthy() -> bool:
            return all(
                self.inspect(each)["State"].get("Health", {}).get("Status") == "healthy"
                for each in services
            )

        wait_until(
            healthy,
            timeout=PATIENCE,
            interval=1,
            message=lambda: self.compose("ps", check=False),
        )

    def inspect_workers(self, what: str, database: int) -> dict[str, Any]:
        """Ask all workers, as anybody on this machine may who has the password."""
        password = self.secret("redis-password")
        port = self.ports["PROMETHEUS_REDIS_PORT"]
        url = f"redis://:{password}@127.0.0.1:{port}/{database}"

        def ask() -> dict[str, Any] | None:
            done = subprocess.run(
                [Path(sys.executable).parent / "celery", "-A", "workers", "inspect", what,
                 "--json", "--timeout", "5"],
                cwd=REPOSITORY,
                env={**os.environ, "PROMETHEUS__BROKER__URL": url},
                capture_output=True,
                text=True,
                check=False,
            )  # fmt: skip
            lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
            answers: dict[str, Any] = json.loads(lines[-1]) if lines else {}
            # On a busy machine some answer later than that.
            return answers if len(answers) == len(WORKERS) else None

        found = wait_until(ask, timeout=PATIENCE, message=f"all workers answer to inspect {what}")
        assert found is not None
        return found

    def page(
        self, path: str, *, port: str, user: str | None = None, method: str = "GET"
    ) -> tuple[int, str]:
        """Ask Flower: status and text."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[port]}{path}")
        request.method = method
        if user is not None:
            token = base64.b64encode(user.encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    # --- the parts ---------------------------------------------------------------------------

    def come_up(self) -> None:
        """Start what `docker compose up` starts."""
        began = time.monotonic()
        self.compose("up", "--detach")
        self.wait_until_healthy("postgres", "redis", *LIVE)
        say(f"{2 + len(LIVE)} containers healthy in {time.monotonic() - began:.0f} s")
        for service in ("secrets", "migrate", "first-user"):
            assert self.inspect(service)["State"]["ExitCode"] == 0, service

    def look_at_workers(self, database: int) -> None:
        """See the queues by the names of the markets, and jobs by theirs."""
        queues = self.inspect_workers("active_queues", database)
        names = sorted(queue["name"] for each in queues.values() for queue in each)
        assert names == MARKETS, queues
        say(f"celery -A workers inspect active_queues: {', '.join(names)} of {len(queues)} workers")
        registered = self.inspect_workers("registered", database)
        for tasks in registered.values():
            assert {"daily.ingest_prices", "daily.run_books"} <= set(tasks), tasks
        jobs = sorted(name for name in next(iter(registered.values())) if name.startswith("daily."))
        say(f"... registered: {', '.join(jobs)}")
        stats = self.inspect_workers("stats", database)
        told = {node.partition("@")[0]: each["pool"]["max-concurrency"] for node, each in
                stats.items()}  # fmt: skip
        assert sorted(told) == ["asia_eq", "eu_eq", "us_eq"], told
        say(f"... stats: processes of each pool {told}")

    def look_at_first_processes(self) -> None:
        """In each of our containers it is an init, which buries whatever ends without a parent."""
        for service in LIVE:
            first = self.inside(service, "cat", "/proc/1/comm").strip()
            assert first == "tini", f"{first} of {service}"
        orphan = self.inside("us-eq", "sh", "-c", "sleep 1 >/dev/null 2>&1 & echo $!").strip()
        wait_until(
            lambda: orphan not in self.inside("us-eq", "ls", "/proc").split(),
            timeout=PATIENCE,
            interval=0.5,
            message=lambda: self.engine.docker("top", self.containers()["us-eq"]),
        )
        say(f"process 1 of {len(LIVE)} containers is tini, which buries orphans")

    def look_at_roles(self) -> None:
        """What job code runs as can do nothing to the server, and who can is let in nowhere."""
        found = self.sql("SELECT rolname, rolsuper, rolcreatedb FROM pg_roles WHERE rolcanlogin")
        assert sorted(found) == [["postgres", "t", "t"], ["prometheus", "f", "f"]], found
        ask = "PGPASSWORD=$(cat /secrets/postgres-password) psql -h $(hostname) -U postgres 2>&1"
        tried = self.inside("postgres", "sh", "-c", ask, check=False)
        assert "password authentication failed" in tried, tried
        say("postgres: prometheus is no superuser, and the superuser is refused from elsewhere")

    def run_live(self) -> None:
        """Let the live installation do one run."""
        text = self.inside(
            *("beat-1", "prometheus", "run", "US_EQ", "--date", "2012-11-21", "--wait", "--json")
        )
        run = json.loads(text)["runs"][0]
        assert run["jobs"] == {"SUCCESS": 9}, run
        port = self.ports["PROMETHEUS_WEB_PORT"]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as browser:
            answer = self._sign_in(browser, self.secret("web-password"))
            assert answer.status_code == 200, answer.text
            page = browser.get(f"/runs/{run['dag_id']}")
            assert "run_books" in page.text, page.text
        say(f"live: prometheus run US_EQ --date 2012-11-21: {run['jobs']}")

    def stop_live(self) -> None:
        """Stop schedulers and workers, of which none may have to be killed."""
        began = time.monotonic()
        self.compose("stop", *LIVE)
        ends = {each: self.inspect(each)["State"]["ExitCode"] for each in LIVE}
        assert 137 not in ends.values(), ends
        say(f"stopped in {time.monotonic() - began:.0f} s, none killed: exit codes {ends}")

    def back_up_and_restore(self) -> None:
        """Put a copy of the live database in its place, by the commands of deploy/README.md."""
        page = (self.checkout / "deploy" / "README.md").read_text()
        commands = re.findall(r"^  \$ (docker compose exec -T postgres .+)$", page, re.MULTILINE)
        assert [each.split()[5] for each in commands] == [
            "pg_dump",
            "createdb",
            "pg_restore",
            "psql",
        ]
        compose = shlex.join([*self.engine.compose_command, "--project-name", PROJECT])
        for command in commands:
            subprocess.run(
                ["bash", "-ec", command.replace("docker compose", compose, 1)],
                cwd=self.checkout,
                env={**os.environ, **self.engine.environment, **self.ports},
                check=True,
            )
        size = (self.checkout / "prometheus.dump").stat().st_size
        (self.checkout / "prometheus.dump").unlink()
        found = [
            self.sql("SELECT dag_id, status FROM dag_runs WHERE dag_id LIKE '%2012%'", database)
            for database in ("replaced", "prometheus")
        ]
        assert found[0] == found[1] == [["us_eq_daily_2012-11-21", "SUCCESS"]], found
        say(f"live: backed up ({size} bytes), and restored in a new database's place")

    def replay(self) -> None:
        """Replay three days, and meanwhile stop and kill one after the other."""
        workers = [f"replay-{each}" for each in WORKERS]
        self.compose(*REPLAY, "up", "--detach", *workers, "replay-web", "replay-flower")
        self.wait_until_healthy(*workers, "replay-web", "replay-flower")
        self.look_at_workers(database=1)
        began = time.monotonic()
        self.compose(*REPLAY, "up", "--detach", "--no-recreate", "replay")
        # Market time waits for its jobs, and so does the end of the replay.
        self.compose(*REPLAY, "stop", "replay-us-eq")
        for count, disturb in (
            (2, self._stop_a_worker),
            (5, lambda: self._kill("redis")),
            (8, self._stop_the_leader),
            (12, lambda: self._kill("postgres")),
        ):
            self._wait_for_jobs(count)
            disturb()
        self.compose(*REPLAY, "start", "replay-us-eq")
        code = self.engine.docker("wait", self.containers()["replay"]).strip()
        told = self.engine.docker("logs", self.containers()["replay"])
        assert code == "0", told
        assert f"{RUNS} runs, {RUNS} SUCCESS; {JOBS} jobs, {JOBS} SUCCESS" in told, told
        for line in told.splitlines():
            if line.startswith((f"{RUNS} runs", "checked:")):
                say(line)
        say(f"... in {time.monotonic() - began:.0f} s, with all that was stopped and killed")
        self.expect_rows()
        lost = self.sql("SELECT status, count(*) FROM job_executions GROUP BY 1 ORDER BY 1")
        told = ", ".join(f"{number} {status}" for status, number in lost)
        say(f"... attempts by their end: {told}")

    def _wait_for_jobs(self, count: int) -> None:
        wait_until(
            lambda: self.succeeded() >= count,
            timeout=PATIENCE,
            interval=0.2,
            message=lambda: f"{count} jobs: {self.sql('SELECT * FROM job_executions')}",
        )

    def _open(self) -> int:
        done = self.succeeded()
        assert done < JOBS, "the replay was over before it could be disturbed"
        return done

    def _stop_a_worker(self) -> None:
        done = self._open()
        running = self.sql(
            "SELECT r.market_id FROM job_executions e JOIN dag_runs r USING (dag_id) "
            "WHERE e.status IN ('RUNNING', 'QUEUED') AND r.market_id <> 'US_EQ' LIMIT 1"
        )
        market = running[0][0] if running else "EU_EQ"
        service = f"replay-{market.lower().replace('_', '-')}"
        began = time.monotonic()
        self.compose(*REPLAY, "stop", service)
        code = self.inspect(service)["State"]["ExitCode"]
        took = time.monotonic() - began
        assert code != 137, f"{service} had to be killed"
        self.compose(*REPLAY, "start", service)
        say(f"{done} jobs: stopped {service} in {took:.0f} s (exit code {code}), started it again")

    def _stop_the_leader(self) -> None:
        done = self._open()
        beats = ("replay-beat-1", "replay-beat-2")
        leader = wait_until(
            lambda: next((each for each in beats if self._leads(each, ask=beats[0])), None),
            timeout=PATIENCE,
            message="one of the two leads",
        )
        assert leader is not None
        (other,) = set(beats) - {leader}
        self.compose(*REPLAY, "stop", leader)
        code = self.inspect(leader)["State"]["ExitCode"]
        wait_until(
            lambda: self._leads(other, ask=other), timeout=PATIENCE, message=f"{other} leads"
        )
        say(f"{done} jobs: stopped {leader}, which led (exit code {code}); {other} leads")
        self.compose(*REPLAY, "start", leader)

    def _leads(self, service: str, *, ask: str) -> bool:
        told = self.inside(ask, "prometheus", "health", "beat", check=False)
        return f"healthy: {self.containers()[service][:12]}" in told

    def _kill(self, service: str) -> None:
        done = self._open()
        before = self.inspect(service)["RestartCount"]
        # All but the first process, which the kernel protects from inside: it ends with them.
        self.inside(service, "sh", "-c", "kill -9 -1", check=False)
        wait_until(
            lambda: self.inspect(service)["RestartCount"] > before,
            timeout=PATIENCE,
            interval=0.5,
            message=f"the engine starts {service} again",
        )
        self.wait_until_healthy(service)
        say(f"{done} jobs: killed all processes of {service}; the engine has started it again")

    def expect_rows(self) -> None:
        """All runs and jobs are there, each succeeded once."""
        query = (
            "SELECT count(*), count(DISTINCT (dag_id, job_id)) FROM job_executions "
            "WHERE status = 'SUCCESS'"
        )
        assert self.sql(query) == [[str(JOBS), str(JOBS)]], self.sql(query)
        query = "SELECT status, count(*) FROM dag_runs GROUP BY 1"
        assert self.sql(query) == [["SUCCESS", str(RUNS)]], self.sql(query)

    def look_at_flower(self) -> None:
        """Flower refuses without password, shows tasks by name with it, and changes nothing."""
        port = "PROMETHEUS_REPLAY_FLOWER_PORT"
        user = self.secret("flower-users")
        pages = ("/", "/workers", "/tasks", "/broker", "/api/tasks", "/api/workers")
        for user_given in (None, "prometheus:wrong"):
            refused = {path: self.page(path, port=port, user=user_given)[0] for path in pages}
            assert set(refused.values()) == {401}, refused
        say(f"Flower without password, or with a wrong one: 401 on {', '.join(pages)}")
        shown = {path: self.page(path, port=port, user=user) for path in pages}
        assert {status for status, _ in shown.values()} == {200}, shown
        assert all(f"{each.replace('-', '_')}@" in shown["/workers"][1] for each in WORKERS)
        tasks = json.loads(shown["/api/tasks"][1])
        names = sorted({each["name"] for each in tasks.values() if each["name"]})
        assert {"daily.ingest_prices", "daily.run_books"} <= set(names), names
        identity, named = next(iter(tasks.items()))
        status, text = self.page(f"/task/{identity}", port=port, user=user)
        assert status == 200
        assert named["name"] in text
        say(f"Flower with it: {len(tasks)} tasks, {', '.join(names)}")
        # Not from Flower, which knows no workers for a while after Redis was gone.
        node = next(iter(self.inspect_workers("active_queues", database=1)))
        status, _ = self.page(f"/api/worker/shutdown/{node}", port=port, user=user, method="POST")
        assert status == 403, status
        say(f"Flower asked to stop a worker: {status}")

    def look_at_pages(self) -> None:
        """They show nothing to nobody, and the replayed days to the first user."""
        port = self.ports["PROMETHEUS_REPLAY_WEB_PORT"]
        password = self.secret("web-password")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as browser:
            closed = ("/", "/api/v1/runs", "/metrics", "/events")
            refused = {path: browser.get(path).status_code for path in closed}
            assert set(refused.values()) == {401}, refused
            for wrong in ("wrong", self.secret("flower-password")):
                answer = self._sign_in(browser, wrong)
                assert answer.status_code == 401, answer.text
            say(f"pages without password, or with a wrong one: 401 on {', '.join(closed)}")
            foreign = browser.get("/healthz", headers={"Host": "elsewhere.example"})
            assert foreign.status_code == 421, foreign.text
            answer = self._sign_in(browser, password)
            assert answer.json()["role"] == "admin", answer.text
            world = browser.get("/")
            assert world.status_code == 200, world.text
            assert all(market in world.text for market in MARKETS)
            runs = browser.get("/api/v1/runs").json()["items"]
            assert [run["jobs"] for run in runs] == RUNS * [{"SUCCESS": 9}], runs
            for run in runs:
                page = browser.get(f"/runs/{run['dag_id']}")
                assert page.status_code == 200, page.text
                assert "run_books" in page.text
            ready = browser.get("/readyz")
            assert ready.status_code == 200, ready.text
        say(f"pages with it, as prometheus: {RUNS} runs, {RUNS * 9} jobs SUCCESS; ready")

    def _sign_in(self, browser: httpx.Client, password: str) -> httpx.Response:
        return browser.post("/api/v1/session", json={"name": "prometheus", "password": password})

    def go_down_and_up(self) -> None:
        """Remove all containers, and start again: what was done is still there."""
        began = time.monotonic()
        self.compose(*REPLAY, "stop")
        ends = {each: self.inspect(each)["State"]["ExitCode"] for each in self.containers()}
        assert 137 not in ends.values(), ends
        say(f"all {len(ends)} containers stopped in {time.monotonic() - began:.0f} s, none killed")
        self.said += self.logs()
        self.compose(*REPLAY, "down")
        assert self.containers() == {}
        self.compose("up", "--detach")
        self.wait_until_healthy("postgres", "redis", *LIVE)
        self.expect_rows()
        live = self.sql("SELECT dag_id FROM dag_runs WHERE dag_id LIKE '%2012%'", "prometheus")
        assert live == [["us_eq_daily_2012-11-21"]], live
        say(f"down and up: {RUNS} runs, {JOBS} jobs SUCCESS are still there, and the live run")
        told = self.compose(*REPLAY, "run", "-T", "--rm", "replay")
        assert f"{RUNS} runs, {RUNS} SUCCESS; {JOBS} jobs, {JOBS} SUCCESS" in told, told
        say("... and the replay, asked for again, finds itself done")

    def measure(self) -> None:
        """Print sizes."""
        size = self.engine.documents("image", "inspect", images.OURS)[0]["Size"]
        say(f"image {images.OURS}: {size / 1e6:.0f} MB")
        base = _base_of(self.checkout)
        under = self.engine.documents("image", "inspect", base)[0]["Size"]
        say(f"... of which {under / 1e6:.0f} MB are {base}")
        running = {
            each["ID"]: each["MemUsage"].partition(" /")[0]
            for each in self.engine.documents("stats", "--no-stream", "--format", "{{json .}}")
        }
        for service, identity in sorted(self.containers().items()):
            if identity[:12] in running:
                say(f"memory {service}: {running[identity[:12]]}")

    def search(self, planted: dict[str, str]) -> None:
        """Look for every secret wherever others might see it."""
        names = ("postgres-password", "redis-password", "web-password", "flower-password")
        values = {**planted, **{name: self.secret(name) for name in names}}
        assert all(len(value) >= 32 for value in values.values())
        # The search itself: it finds what is there.
        assert found_in(values, self.secret("database-url").encode()) == ["postgres-password"]

        found, size = found_in_image(self.engine, images.OURS, values)
        assert not found, f"in the image: {found}"
        say(f"{len(values)} secrets in no layer of the image ({size / 1e6:.0f} MB looked through)")
        places: dict[str, Callable[[], str]] = {
            "docker inspect of all containers": lambda: self.engine.docker(
                "inspect", *self.containers().values()
            ),
            "docker inspect of the image": lambda: self.engine.docker("inspect", images.OURS),
            "docker inspect of the volumes": lambda: self.engine.docker(
                "volume", "inspect", *(f"{PROJECT}_{each}" for each in ("secrets", "postgres"))
            ),
            "logs": lambda: self.said + self.logs(),
            "docker top": lambda: "".join(
                self.engine.docker("top", identity, "-eo", "pid,args", check=False)
                for identity in self.containers().values()
            ),
            "docker compose config": lambda: self.compose(*REPLAY, "config"),
        }
        for place, look in places.items():
            text = look().encode()
            found = found_in(values, text)
            assert len(text) > 100, place
            assert not found, f"in {place}: {found}"
            say(f"... nor in {place} ({len(text)} bytes)")
        lines = b"\n".join(self.watch.seen)
        found = found_in(values, lines)
        assert not found, f"in process lists: {found}"
        if b"prometheus\0worker" in lines:
            say(f"... nor in {len(self.watch.seen)} command lines seen meanwhile")
        else:
            assert not self.engine.is_own
            say("... command lines: NOT looked at, as this engine's are not among this machine's")

    def logs(self) -> str:
        """What all containers have written."""
        return "".join(
            f"== {service}\n"
            + subprocess.run(
                [*self.engine.command, "logs", identity],
                env={**os.environ, **self.engine.environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            ).stdout
            for service, identity in sorted(self.containers().items())
        )


def _base_of(checkout: Path) -> str:
    lines = (checkout / "Dockerfile").read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith("FROM ")][-1]


def plant(checkout: Path) -> dict[str, str]:
    """Leave secrets where people do, in files that must not get into the image."""
    planted = {}
    for name in (".env", "prometheus.toml", "docker/passwords.txt", ".prometheus/prometheus.db"):
        planted[name] = secrets.token_hex(20)
        path = checkout / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"TOKEN={planted[name]}\n")
    return planted


def _kept(path: Path) -> str:
    """Make a secret that stays the same, as a build that was given another could reuse nothing."""
    if not path.exists():
        path.write_text(secrets.token_hex(20))
    return path.read_text()


def main() -> int:
    """Run the trial."""
    parser = argparse.ArgumentParser(prog="python -m tests.compose", description=__doc__)
    parser.add_argument(
        "--folder",
        type=Path,
        default=REPOSITORY / ".compose-test",
        help="for the engine, if none answers, and what else is made; kept for the next time",
    )
    parser.add_argument("--keep", action="store_true", help="leave the containers at the end")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    # An end like any other, so that no engine is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with find_engine(folder) as engine, Watch() as watch:
            return _run(engine, folder, watch, keep=options.keep)
    except EngineError as error:
        print(error, file=sys.stderr)
        return 1


def _run(engine: Engine, folder: Path, watch: Watch, *, keep: bool) -> int:
    version = engine.docker("version", "--format", "{{.Server.Version}}").strip()
    say(f"engine {version}, {'started in ' + str(folder) if engine.is_own else 'found'}")
    checkout = folder / "checkout"
    images.copy_checkout(checkout)
    trial = Trial(engine, checkout, watch)
    say(trial.compose("version").splitlines()[0])
    for name, stands_in in images.provide(engine, images.needed_images(checkout), folder).items():
        say(f"image {name}{', made from Debian packages in its stead' if stands_in else ''}")
    planted = plant(checkout)
    planted["build argument"] = _kept(folder / "build-argument")
    images.build(engine, checkout, f"file:///nowhere/{planted['build argument']}")
    say("image built from a copy of the checkout")
    trial.compose(*REPLAY, "down", "--volumes")
    try:
        trial.come_up()
        trial.look_at_workers(database=0)
        trial.look_at_first_processes()
        trial.look_at_roles()
        trial.run_live()
        trial.stop_live()
        trial.back_up_and_restore()
        trial.replay()
        trial.look_at_flower()
        trial.look_at_pages()
        trial.go_down_and_up()
        trial.measure()
        trial.search(planted)
    except (AssertionError, EngineError) as error:
        (folder / "logs.txt").write_text(trial.logs())
        print(f"FAILED: {error}\nThe logs of all containers are in {folder}/logs.txt", flush=True)
        return 1
    finally:
        # An engine that ends takes away the network from those who are asked to end with it.
        trial.compose(*REPLAY, *(["stop"] if keep else ["down", "--volumes"]), check=False)
    say("all of it holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
