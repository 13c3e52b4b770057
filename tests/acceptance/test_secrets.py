"""
No secret is shown: one is planted wherever there can be one, and looked for wherever people look.

What may be seen stands beside each secret, and is found there: so the search could find them, too.
"""

from __future__ import annotations

import base64
import html
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import httpx
import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from prometheus.actors import Role
from prometheus.monitoring.app import create_app
from prometheus.passwords import hash_password
from prometheus.persistence import users
from prometheus.persistence.engine import create_engine, writing
from prometheus.settings import Address, fields, load_settings
from tests.acceptance.conftest import RunCommand, StartCommand
from tests.integration.monitoring.recipients import Recipients, receiving
from tests.integration.monitoring.test_foreign_sites import walk
from tests.servers import PLAIN, PostgresServer, Process, RedisServer, free_port, wait_until

ODD = """@/+"'\\ö<&>"""
"""What URLs, JSON, Python and HTML each write in another way."""
SHOWN = f"Shown{ODD}control"
"""Stands wherever a secret does, and is none."""
NAME = "harmless"
"""Of a pipeline and of a channel, which are no secrets either."""
DAG_ID = f"us_eq_{NAME}_2012-11-21"
PAUSED_ID = f"us_eq_{NAME}_2012-11-20"
ARGUMENTS = {
    "api_password": f"Planted{ODD}argument",
    "X-Api-Key": f"Planted{ODD}key",
    "Authorization": f"Planted{ODD}header",
    "access_key": 7031948265,
}
"""Of jobs, secret by their names."""
LOGIN = f"Planted{ODD}of-a-person"
PIPELINE = f'''
import json
import logging
import sys
from pathlib import Path

from prometheus import JobContext, Pipeline

SAID = json.loads((Path(__file__).parent / "said.json").read_text())


def told(ctx: JobContext, error: str) -> None:
    print("on failure:", *SAID["words"])


{NAME} = Pipeline(
    "{NAME}",
    markets=["US_EQ"],
    parameters={{"feed": SAID["arguments"], "said": SAID["words"]}},
    on_failure=told,
)


@{NAME}.job()
def says(ctx: JobContext) -> dict[str, object]:
    for word in ctx.parameters["said"]:
        print("printed", word, [word], json.dumps(word), json.dumps([repr(word)]))
        print("to standard error", word, file=sys.stderr)
        ctx.logger.info("logged " + word, extra={{"word": word, "words": [word, "and more"]}})
        logging.getLogger("library").warning("by a library: %r", word)
    for form in SAID["forms"]:
        print("written as", form)
    said = ctx.parameters["said"]
    asked = list(ctx.parameters["feed"].values())
    return {{"said": said, "asked": asked, **{{word: 1 for word in said}}}}


@{NAME}.job(after=[says], max_retries=0)
def fails(ctx: JobContext) -> None:
    try:
        raise OSError(ctx.parameters["feed"])
    except OSError as error:
        raise RuntimeError("refused: " + " ".join(ctx.parameters["said"])) from error
'''
BROKEN = """
import json
from pathlib import Path

raise RuntimeError("no: " + " ".join(json.loads(Path("said.json").read_text())["settings"]))
"""
TEXTS_OF_THE_DATABASE = """
    SELECT table_name, column_name FROM information_schema.columns
    WHERE table_schema = 'public' AND data_type IN ('text', 'character varying', 'jsonb', 'json')
"""
KEPT = {
    ("dag_runs", "parameters"): "handed to the jobs of the run, to every attempt of them",
    ("job_executions", "result"): "as the job returned it, for whoever reads the table",
    ("pauses", "reason"): "as a person wrote it",
    ("backfills", "reason"): "as a person wrote it",
    ("audit", "details"): "as a person wrote it",
    ("users", "password_hash"): "all that is kept of a password",
}
"""Columns that have secrets if people put some there, and why; all that shows them hides these."""
QUERIES = {
    "/runs/{dag_id}": ("", "?job=says&attempt=1", "?job=fails"),
    "/why/{dag_id}": ("", "?job=fails"),
    "/api/status/pipeline": ("?market_id=US_EQ",),
}
"""Questions with which a page shows more."""
AFTERWARDS = (
    f"/why/{DAG_ID}?job=fails",
    "/api/v1/executions",
    f"/runs/{DAG_ID}?job=says&attempt=1",
    f"/runs/{DAG_ID}?job=fails",
    f"/api/v1/runs/{DAG_ID}",
    f"/api/dag/{DAG_ID}",
)
LOOKS = (
    ("status",),
    ("status", DAG_ID),
    ("why", DAG_ID, "fails"),
    ("why", PAUSED_ID, "says"),
    ("logs", DAG_ID),
    ("backfill", "show", "1"),
    ("doctor",),
)
COMMANDS = (
    *LOOKS,
    *((*command, "--json") for command in LOOKS),
    ("backfill", "list"),
    ("alerts", "list", "--json"),
    ("audit", "--json"),
    ("config", "show", "--json"),
)


def forms(word: str) -> set[str]:
    """Return a word as it is and as texts of many kinds write it."""
    quoted = json.dumps(word)[1:-1]
    return {
        word,
        quote(word),
        quote(word, safe=""),
        quote_plus(word),
        quoted,
        json.dumps(word, ensure_ascii=False)[1:-1],
        json.dumps(quoted)[1:-1],
        repr(word)[1:-1],
        html.escape(word),
        html.escape(word).replace("&#x27;", "&#39;"),  # as Jinja does
        base64.b64encode(word.encode()).decode(),
    }


def found(words: Mapping[str, str], text: str) -> list[str]:
    """Name the words that a text has in it, in whatever form."""
    return [name for name, word in words.items() if any(form in text for form in forms(word))]


def plant(**known: Callable[[str], object]) -> tuple[dict[str, dict[str, object]], dict[str, str]]:
    """
    Give every secret setting a value with a secret of its own in it.

    Args:
        known: Settings whose values have a shape, and how these are written with a secret in them;
            any other's is the secret alone, of letters and digits.

    Returns:
        The settings by section, and the secrets by the settings' names.
    """
    tables: dict[str, dict[str, object]] = {}
    words: dict[str, str] = {}
    for path, about in fields():
        if about.annotation not in (SecretStr, Address, dict[str, Address]):
            continue
        name = ".".join(path)
        write = known.pop(name.replace(".", "_"), None)
        words[name] = f"Planted{''.join(path)}4" if write is None else f"Planted{ODD}{name}"
        value = write(words[name]) if write else words[name]
        tables.setdefault(path[0], {}).update(
            value if isinstance(value, dict) else {path[-1]: value}
        )
    assert not known, f"no settings: {known}"
    return tables, words


@contextmanager
def asking_for_passwords(
    postgres: PostgresServer, redis: RedisServer, words: Mapping[str, str]
) -> Iterator[None]:
    """Have both servers know somebody called "planted" by his passwords."""
    rules = postgres.data / "pg_hba.conf"
    before = rules.read_text()
    with postgres.connect() as connection, redis.client() as client:
        connection.execute(
            SQL("CREATE ROLE planted SUPERUSER LOGIN PASSWORD {}").format(words["database.url"])
        )
        rules.write_text(f"local all planted scram-sha-256\n{before}")
        connection.execute("SELECT pg_reload_conf()")
        client.acl_setuser(
            "planted",
            enabled=True,
            passwords=[f"+{words['broker.url']}"],
            keys=["*"],
            channels=["*"],
            commands=["+@all"],
        )
        try:
            yield
        finally:
            client.acl_deluser("planted")
            connection.execute("DROP ROLE planted")
            rules.write_text(before)
            connection.execute("SELECT pg_reload_conf()")


@dataclass
class Seen:
    """All that people could see: kind of place -> place -> text."""

    texts: dict[str, dict[str, str]] = field(default_factory=dict)

    def note(self, kind: str, place: str, text: str) -> None:
        """Keep what is seen in a place, beside what was there before."""
        places = self.texts.setdefault(kind, {})
        places[place] = f"{places.get(place, '')}\n{text}"

    def showing(self, words: Mapping[str, str]) -> dict[str, str]:
        """Say where which of the words are: place -> their names, and what stands around one."""
        shown = {}
        for places in self.texts.values():
            for place, text in places.items():
                if names := found(words, text):
                    at = min(text.find(f) for f in forms(words[names[0]]) if f in text)
                    shown[place] = f"{names}: {text[max(at - 80, 0) : at + 80]!r}"
        return shown


@dataclass
class Planted:
    """An installation at work that is full of secrets."""

    processes: dict[str, Process]
    recipients: Recipients
    database: str
    """To be looked at without a password."""
    url: str
    words: dict[str, str]
    """Whatever must not be seen."""
    token: str
    seen: Seen

    def ask(self, path: str, *, method: str = "GET", kind: str = "answer", **more: Any) -> Any:
        """Ask the web app as an administrator, or as given; keep what it says."""
        more.setdefault("headers", {"Authorization": f"Bearer {self.token}"})
        answer = httpx.request(method, f"{self.url}{path}", timeout=60, verify=PLAIN, **more)
        headers = {**answer.headers, "set-cookie": ""}  # that one is for its browser alone
        self.seen.note(kind, f"{method} {path[:80]}", f"{headers}\n{answer.text}")
        return answer

    def query(self, statement: Any) -> list[Any]:
        """Ask the database."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def planted(
    run_command: RunCommand,
    start_command: StartCommand,
    home: Path,
    postgres_server: PostgresServer,
    postgresql_url: str,
    redis_server: RedisServer,
    redis_url: str,
) -> Iterator[Planted]:
    """Everything is at work, a job has failed, and the recipient has refused to be told of it."""
    port = free_port()
    with receiving() as recipients:
        recipients.status = 503
        at = f"127.0.0.1:{recipients.web_port}"
        path_of_channel = "PlantedInThePath4"
        tables, words = plant(
            database_url=lambda word: postgresql_url.replace(
                "postgres@", f"planted:{quote(word, safe='')}@"
            ),
            broker_url=lambda word: redis_url.replace(
                "redis://", f"redis://planted:{quote(word, safe='')}@"
            ),
            flower_basic_auth=lambda word: f"me:{word}",
            alerts_ping_url=lambda word: f"http://{at}/{quote(word, safe='')}",
            channels=lambda word: {
                NAME: f"json://me:{quote(word, safe='')}@{at}/{path_of_channel}"
            },
        )
        words["path of a channel"] = path_of_channel
        of_settings = [SHOWN, *words.values()]
        words |= {name: str(value) for name, value in ARGUMENTS.items()}
        said = [SHOWN, *words.values()]
        tables["pipelines"] = {"modules": ["secretive.py", "broken.py"]}
        tables["markets"] = {"enabled": ["US_EQ"]}
        tables["scheduler"] = {"create_runs": False}
        tables["workers"] = {"concurrency": 1}
        (home / "prometheus.toml").write_text(
            "\n".join(
                f"[{name}]\n"
                + "".join(
                    f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
                    for key, value in table.items()
                )
                for name, table in tables.items()
            )
        )
        (home / "said.json").write_text(
            json.dumps(
                {
                    "words": said,
                    "settings": of_settings,
                    "arguments": ARGUMENTS,
                    "forms": sorted({form for word in said for form in forms(word)}),
                }
            )
        )
        (home / "secretive.py").write_text(PIPELINE)
        (home / "broken.py").write_text(BROKEN)
        engine = create_engine(postgresql_url)
        kept = hash_password(LOGIN)
        with writing(engine) as connection:
            users.add_user(connection, "ada", Role.ADMIN, kept, actor="root")
            token, _ = users.add_token(
                connection, "ci", Role.ADMIN, timedelta(hours=1), actor="root"
            )
        engine.dispose()
        words |= {"password of ada": LOGIN, "hash of it": kept, "token": token}
        with asking_for_passwords(postgres_server, redis_server, words):
            env = {"PROMETHEUS__WEB__PORT": str(port)}
            processes = {name: start_command(name, env=env) for name in ("beat", "worker")}
            url = f"http://127.0.0.1:{port}"
            plain = postgresql_url.replace("+psycopg", "")
            here = Planted(processes, recipients, plain, url, words, token, Seen())
            run = ("run", "US_EQ", "--pipeline", NAME, "--date", "2012-11-21")
            refused = run_command(*run, env={"PROMETHEUS__PIPELINES__MODULES": "broken.py"})
            assert "broken.py:5: RuntimeError" in refused.refused()
            here.seen.note("command", "run, refused", refused.out + refused.err)
            started = run_command(*run)
            assert started.status == 0, started
            here.seen.note("command", "run", started.out + started.err)
            wait_until(
                lambda: here.query("SELECT 1 FROM dag_runs WHERE status = 'FAILED'"),
                timeout=90,
                interval=0.1,
                message="the run has failed",
            )
            # Last, because it looks at once, and then every ten seconds, what there is to tell.
            processes["web"] = start_command("web", env=env)
            processes["web"].wait_for("alert_not_sent", timeout=60)
            wait_until(lambda: _answers(f"{url}/healthz"), timeout=60, message="it answers")
            yield here


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10, verify=PLAIN).status_code == 200
    except httpx.TransportError:
        return False


def err(here: Planted) -> None:
    """Make the mistakes that people make with passwords and tokens."""
    own = {"password of ada", "hash of it"}
    # A command does not know the arguments of jobs but those of the run that it shows.
    hidden = here.words.keys() - own - ARGUMENTS.keys()
    reason = " ".join([SHOWN, *(here.words[name] for name in hidden)])
    pause = {"market": "US_EQ", "reason": reason}
    assert here.ask("/api/v1/pause", method="POST", json=pause).status_code == 200
    run = {"market": "US_EQ", "date": PAUSED_ID[-10:], "pipeline": NAME}
    assert here.ask("/api/v1/runs", method="POST", json=run).status_code == 200
    backfill = {"market": "US_EQ", "first": "2012-11-19", "last": "2012-11-19", "pipeline": NAME}
    started = here.ask("/api/v1/backfills", method="POST", json={**backfill, "reason": reason})
    assert started.status_code == 200, started.text
    wrong = here.words["wrong token"] = f"{here.token[:-1]}-"
    for name, password in (("ada", "not the password"), (LOGIN, "not the name"), ("ada", LOGIN)):
        body = {"name": name, "password": password}
        answer = here.ask("/api/v1/session", method="POST", json=body, headers={})
        if answer.status_code == 200:
            (secret,) = answer.cookies.values()
            here.words["cookie"] = secret
    assert "cookie" in here.words
    by = {"Authorization": f"Bearer {here.token}", "Accept": "text/html"}
    # What only one person knows, nobody else can know for a password.
    words = [quote(word, safe="") for name, word in here.words.items() if name in hidden]
    for word in (*words, quote(wrong), quote(SHOWN, safe="")):
        assert here.ask(f"/api/v1/runs/{word}").status_code == 404
        assert here.ask(f"/runs/{word}", headers=by).status_code == 404
    asked = "&".join(f"{word}={word}" for word in words)
    for path in ("/nothing", "/api/v1/runs", "/api/v1/alerts", "/history", "/operations", "/"):
        here.ask(f"{path}?token={here.token}&{asked}", headers=by)
    assert here.ask("/".join(["", *words])).status_code == 404
    for headers in (
        {"Authorization": f"Bearer {wrong}"},
        {"Authorization": f"Basic {here.token}"},
        {"Cookie": here.token},
        {"X-Api-Key": here.token},
        {},
    ):
        assert here.ask("/api/v1/runs", headers=headers).status_code == 401


def look_at_routes(here: Planted) -> None:
    """Ask for whatever the web app has, and read the first that a stream says."""
    executions = here.ask("/api/v1/executions").json()["items"]
    logged = [each["execution_id"] for each in executions if each["started_at"]]
    page = here.ask("/", kind="page").text
    parts = {
        "market": "US_EQ",
        "job": "fails",
        "backfill": "1",
        "day": "2012-11-21",
        "name": page.partition("static/")[2].partition('"')[0],
    }
    routes = {
        path
        for method, path in walk(create_app(load_settings({}, Path("/"))).routes)
        if method == "GET"
    }
    assert len(routes) >= 30
    for route in sorted(routes - {"/events"}):
        is_data = route.startswith("/api/") or route in ("/healthz", "/readyz", "/version")
        kind = "metrics" if route == "/metrics" else "api" if is_data else "page"
        dag_ids = (DAG_ID, PAUSED_ID) if "{dag_id}" in route else ("",)
        execution_ids = logged if "{execution_id}" in route else ("",)
        for dag_id, execution_id, query in product(
            dag_ids, execution_ids, QUERIES.get(route, ("",))
        ):
            path = route.format(dag_id=dag_id, execution_id=execution_id, **parts)
            answer = here.ask(path + query, kind=kind)
            assert answer.status_code == 200, answer.text
    by = {"Authorization": f"Bearer {here.token}"}
    with httpx.stream("GET", f"{here.url}/events", headers=by, timeout=60) as stream:
        lines: list[str] = []
        for line in stream.iter_lines():
            lines.append(line)
            if line.startswith("data:"):
                break
        here.seen.note("stream", "/events", "\n".join(lines))


def look_without_pipelines(here: Planted, start_command: StartCommand, home: Path) -> None:
    """Ask for what was done by a pipeline that has gone: the run alone knows its secrets."""
    web = here.processes["web"]
    web.send(signal.SIGTERM)
    assert web.wait(60) == 0, web.output()
    here.seen.note("log", "web", web.output())
    file = home / "prometheus.toml"
    file.write_text(file.read_text().replace('"secretive.py", ', ""))
    env = {"PROMETHEUS__WEB__PORT": here.url.rpartition(":")[2]}
    here.processes["web"] = start_command("web", env=env)
    wait_until(lambda: _answers(f"{here.url}/healthz"), timeout=60, message="it answers again")
    for path in AFTERWARDS:
        answer = here.ask(path, kind="afterwards")
        assert answer.status_code == 200, answer.text


def look_by_commands(here: Planted, run_command: RunCommand) -> None:
    """Ask the commands, for people and for machines."""
    with ThreadPoolExecutor(2) as pool:
        all_ended = pool.map(lambda command: run_command(*command), COMMANDS)
        for command, ended in zip(COMMANDS, all_ended, strict=True):
            # A pipeline is broken, and so the doctor finds a fault.
            assert ended.status == (command[0] == "doctor"), ended
            here.seen.note("command", " ".join(command), ended.out + ended.err)


def look_at_rows(here: Planted) -> None:
    """Read all texts of the database."""
    for table, column in here.query(TEXTS_OF_THE_DATABASE):
        rows = here.query(
            SQL("SELECT {}::text FROM {}").format(Identifier(column), Identifier(table))
        )
        text = "\n".join(str(value) for (value,) in rows)
        if (table, column) in KEPT:
            assert found(here.words, text), f"{table}.{column} needs no exception"
        else:
            here.seen.note("database", f"{table}.{column}", text)


@pytest.mark.slow
def test_no_secret_is_shown_anywhere(
    planted: Planted, run_command: RunCommand, start_command: StartCommand, home: Path
) -> None:
    planted.recipients.status = 200
    planted.query("UPDATE alert_deliveries SET next_try_at = now()")
    err(planted)
    look_by_commands(planted, run_command)
    wait_until(lambda: planted.recipients.posts, timeout=60, message="the alert is accepted")
    look_at_routes(planted)
    look_without_pipelines(planted, start_command, home)
    seen = planted.seen
    seen.note("alert", "what was sent", json.dumps(planted.recipients.posts))
    for name, process in planted.processes.items():
        lines = [" ".join(each.cmdline()) for each in process.family()]
        seen.note("command line", name, "\n".join(lines))
        process.send(signal.SIGTERM)
    look_at_rows(planted)
    for name, process in planted.processes.items():
        assert process.wait(60) == 0, process.output()
        seen.note("log", name, process.output())
    for file in home.rglob("*.log"):
        seen.note("log", str(file), file.read_text())

    leaks = seen.showing(planted.words)
    assert not leaks, "\n".join(f"{place}\n  {what}" for place, what in leaks.items())
    shown = seen.showing({"said": SHOWN})
    for kind in ("page", "api", "answer", "command", "alert", "log", "database", "afterwards"):
        assert shown.keys() & seen.texts[kind].keys(), f"no {kind} shows what is no secret"
    shown |= seen.showing({"name": NAME})
    for kind in ("metrics", "log"):
        assert shown.keys() >= seen.texts[kind].keys(), kind
