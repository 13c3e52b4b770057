"""Settings from real files and environments: precedence, faults, secrets."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from prometheus.configuration import DATABASE_NAME
from prometheus.masking import safe_text, safe_url
from prometheus.settings import (
    Settings,
    SettingsError,
    fields,
    listing,
    load_settings,
)
from prometheus.sources.synthetic import DEFAULT_SEED


def faults(environ: dict[str, str], cwd: Path) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, cwd)
    assert str(caught.value).startswith("settings: ")
    return list(caught.value.faults)


def write(cwd: Path, text: str, name: str = "prometheus.toml") -> Path:
    path = cwd / name
    path.write_text(text, encoding="utf-8")
    return path


def test_without_any_source_the_defaults_hold(tmp_path: Path) -> None:
    settings = load_settings({}, tmp_path)
    assert settings.markets.enabled == ("US_EQ", "EU_EQ", "ASIA_EQ")
    assert settings.broker.visibility_timeout == timedelta(hours=2)
    assert settings.workers.concurrency is None
    assert {line.origin for line in listing(settings)} == {"default"}


def test_database_is_a_file_in_the_data_folder_by_default(tmp_path: Path) -> None:
    settings = load_settings({"PROMETHEUS__DATA__FOLDER": "here"}, tmp_path)
    assert settings.data.folder == tmp_path / "here"
    assert settings.database.url.get_secret_value() == (
        f"sqlite:///{tmp_path / 'here' / DATABASE_NAME}"
    )


def test_loading_creates_nothing(tmp_path: Path) -> None:
    load_settings({}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_toml_sets_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        seed = 7
        [workers]
        concurrency = 3
        lease = "1m"
        [markets]
        enabled = ["EU_EQ", "XTKS"]
        [sources]
        EU_EQ = "synthetic"
        """,
    )
    settings = load_settings({}, tmp_path)
    assert settings.seed == 7
    assert settings.workers.concurrency == 3
    assert settings.workers.lease == timedelta(minutes=1)
    assert settings.workers.renewal == timedelta(seconds=5)
    assert settings.markets.enabled == ("EU_EQ", "XTKS")
    assert settings.sources == {"EU_EQ": "synthetic"}


def test_variable_beats_its_file_which_beats_toml(tmp_path: Path) -> None:
    write(tmp_path, '[broker]\nurl = "redis://toml/0"\n')
    secret = write(tmp_path, "redis://secret/0\n", "broker-url")
    environ = {"PROMETHEUS__BROKER__URL_FILE": str(secret)}
    assert load_settings({}, tmp_path).broker.url.get_secret_value() == "redis://toml/0"
    assert load_settings(environ, tmp_path).broker.url.get_secret_value() == "redis://secret/0"
    environ["PROMETHEUS__BROKER__URL"] = "redis://variable/0"
    assert load_settings(environ, tmp_path).broker.url.get_secret_value() == "redis://variable/0"


def test_toml_value_equal_to_a_default_is_not_lost_to_another_default(tmp_path: Path) -> None:
    """A default is a value only after all sources are merged."""
    write(tmp_path, '[scheduler]\nmax_wait = "1s"\n')
    settings = load_settings({"PROMETHEUS__SCHEDULER__LEASE": "4s"}, tmp_path)
    assert settings.scheduler.max_wait == timedelta(seconds=1)
    assert settings.scheduler.lease == timedelta(seconds=4)


def test_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    write(tmp_path, "seed = 7\n")
    environ = {
        "PROMETHEUS__SEED": "",
        "PROMETHEUS__DATABASE__URL_FILE": "",
        "PROMETHEUS_CONFIG": "",
    }
    assert load_settings(environ, tmp_path).seed == 7


def test_file_is_named_by_a_variable_and_not_by_toml(tmp_path: Path) -> None:
    path = write(tmp_path, '[database]\nurl_file = "url"\n')
    told = "no such key in database. A variable names a file: PROMETHEUS__DATABASE__URL_FILE."
    assert faults({}, tmp_path) == [f"{path}:2 [database] url_file: {told}"]


@pytest.mark.parametrize("left", ["", " \n"], ids=repr)
def test_empty_file_is_refused_and_not_taken_for_not_set(tmp_path: Path, left: str) -> None:
    """Each machine would make a database of its own, and run every session."""
    secret = write(tmp_path, left, "url")
    found = faults({"PROMETHEUS__DATABASE__URL_FILE": "url"}, tmp_path)
    told = "the file is empty. Write the value into it, or unset the variable"
    assert found == [f"PROMETHEUS__DATABASE__URL_FILE={secret}: {told}"]


def test_config_variable_names_another_file(tmp_path: Path) -> None:
    write(tmp_path, "seed = 1\n")
    other = write(tmp_path, "seed = 2\n", "other.toml")
    assert load_settings({"PROMETHEUS_CONFIG": str(other)}, tmp_path).seed == 2
    assert load_settings({"PROMETHEUS_CONFIG": "other.toml"}, tmp_path).seed == 2


def test_lists_and_switches_are_read_from_variables(tmp_path: Path) -> None:
    settings = load_settings(
        {
            "PROMETHEUS__MARKETS__ENABLED": "US_EQ, XLON",
            "PROMETHEUS__SCHEDULER__LEADER_ELECTION": "false",
            "PROMETHEUS__SOURCES__US_EQ": "synthetic",
        },
        tmp_path,
    )
    assert settings.markets.enabled == ("US_EQ", "XLON")
    assert settings.scheduler.leader_election is False
    assert settings.sources == {"US_EQ": "synthetic"}


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("45s", timedelta(seconds=45)),
        ("5m", timedelta(minutes=5)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("PT45S", timedelta(seconds=45)),
        ("pt1h30m", timedelta(hours=1, minutes=30)),
        ("P1DT2H", timedelta(days=1, hours=2)),
    ],
)
def test_durations(text: str, duration: timedelta, tmp_path: Path) -> None:
    environ = {"PROMETHEUS__SCHEDULER__RECONCILE_EVERY": text}
    assert load_settings(environ, tmp_path).scheduler.reconcile_every == duration


@pytest.mark.parametrize("text", ["30", "0s", "P", "PT", "P1M", "soon", "-5s"])
def test_durations_that_are_none(text: str, tmp_path: Path) -> None:
    (fault,) = faults({"PROMETHEUS__SCHEDULER__RECONCILE_EVERY": text}, tmp_path)
    assert fault.startswith("PROMETHEUS__SCHEDULER__RECONCILE_EVERY: ")


def test_a_number_in_toml_is_no_duration(tmp_path: Path) -> None:
    path = write(tmp_path, "[workers]\nlease = 30\n")
    assert faults({}, tmp_path) == [
        f"{path}:2 [workers] lease: 30 has no unit; write 45s, 30m, 2h, 1h30m or 1d"
    ]


def test_unknown_names_say_the_nearest_known(tmp_path: Path) -> None:
    path = write(tmp_path, '[databse]\nurl = "x"\n[workers]\nleese = "4s"\n')
    environ = {
        "PROMETHEUS__BROKR__URL": "redis://h",
        "PROMETHEUS__BROKER__ULR": "redis://h",
        "PROMETHEUS_DATABASE_URL": "sqlite:///x",
        "PROMETHEUS__SEED__X": "1",
        "PROMETHEUS_MULTIPROC_DIR": "not ours",
    }
    assert faults(environ, tmp_path) == [
        f"{path}:1 [databse]: no such section. Did you mean 'database'?",
        f"{path}:4 [workers] leese: no such key in workers. Did you mean 'lease'?",
        "PROMETHEUS_DATABASE_URL: not read. Did you mean 'PROMETHEUS__DATABASE__URL'?",
        "PROMETHEUS__BROKER__ULR: no such key in broker. Did you mean 'URL'?",
        "PROMETHEUS__BROKR__URL: no such section: 'BROKR'. Did you mean 'BROKER'?",
        "PROMETHEUS__SEED__X: no such setting. Did you mean 'PROMETHEUS__SEED'?",
    ]


def test_all_faults_are_listed_with_where_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, '[markets]\nenabled = ["US_EQQ"]\n[sources]\nEUEQ = "synthetic"\n')
    environ = {
        "PROMETHEUS__WORKERS__CONCURRENCY": "many",
        "PROMETHEUS__WORKERS__MAX_LOST": "-1",
        "PROMETHEUS__SCHEDULER__LEADER_ELECTION": "perhaps",
        "PROMETHEUS__DATABASE__URL_FILE": "nowhere",
    }
    found = faults(environ, tmp_path)
    assert len(found) == 6
    nowhere = tmp_path / "nowhere"
    assert found[0] == f"PROMETHEUS__DATABASE__URL_FILE={nowhere}: No such file or directory"
    text = "\n".join(found)
    assert f"{path}:2 [markets] enabled: No market or exchange is called 'US_EQQ'" in text
    assert "Did you mean 'US_EQ'?" in text
    assert f"{path}:4 [sources] EUEQ: No market or exchange is called 'EUEQ'" in text
    assert "PROMETHEUS__WORKERS__CONCURRENCY: input should be a valid integer" in text
    assert "PROMETHEUS__WORKERS__MAX_LOST: input should be greater than or equal to 0" in text
    assert "PROMETHEUS__SCHEDULER__LEADER_ELECTION: input should be a valid boolean" in text


def test_values_that_contradict_each_other_name_both_places(tmp_path: Path) -> None:
    path = write(tmp_path, '[scheduler]\nmax_wait = "7s"\n')
    (fault,) = faults({"PROMETHEUS__SCHEDULER__LEASE": "13s"}, tmp_path)
    assert fault == (
        f"PROMETHEUS__SCHEDULER__LEASE and {path}:2 [scheduler] max_wait: lease (13s) must be "
        "at least twice max_wait (7s), or the lead would be lost between two ticks"
    )


def test_contradictions_and_sources_are_told_beside_other_faults_of_a_section(
    tmp_path: Path,
) -> None:
    write(
        tmp_path,
        """
        sources = { EUEQ = "bundled", EU_EQ = "reuters", JP_EQ = "bundled" }
        [scheduler]
        max_wait = "20s"
        lease = "30s"
        reconcile_every = "often"
        [workers]
        concurrency = 0
        renewal = "11s"
        """,
    )
    text = "\n".join(faults({}, tmp_path))
    for said in (
        "'EUEQ'",
        "'reuters'",
        "JP_EQ: the source 'bundled'",
        "reconcile_every: ",
        "concurrency: ",
        "twice max_wait (20s)",
        "three times renewal (11s)",
        "four times the scheduler's max_wait (20s)",
    ):
        assert text.count(said) == 1, f"{said} in:\n{text}"


def test_sections_that_contradict_each_other_name_both_places(tmp_path: Path) -> None:
    path = write(tmp_path, '[scheduler]\nmax_wait = "8s"\nlease = "20s"\n')
    (fault,) = faults({}, tmp_path)
    assert fault == (
        f"workers.lease and {path}:2 [scheduler] max_wait: the lease of workers (30s) must be at "
        "least four times the scheduler's max_wait (8s), or it could not tell its own pauses from "
        "an outage in which healthy workers could not renew"
    )
    assert load_settings({"PROMETHEUS__WORKERS__LEASE": "32s"}, tmp_path).workers.lease


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[broker\n", ":1: not TOML: expected ']' at the end of a table declaration"),
        ("\nseed = \n", ":2: not TOML: invalid value"),
        ("x = 2026-13-01\ny = [1\n", ":2: not TOML: unclosed array"),
        ("x = 2026-12-24 y\n", ":1: not TOML: expected newline or end of document"),
    ],
)
def test_a_file_that_is_not_toml_is_told_with_the_line_and_that_it_was_not_read_on(
    text: str, said: str, tmp_path: Path
) -> None:
    path = write(tmp_path, text)
    (fault,) = faults({}, tmp_path)
    assert fault.startswith(f"{path}{said}")
    assert fault.endswith(". What else is wrong was not looked for")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "prometheus.toml"
    path.write_bytes(b"\xff\xfe")
    (fault,) = faults({}, tmp_path)
    assert fault.startswith(f"{path}: not TOML: ")


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    assert faults({"PROMETHEUS_CONFIG": "gone.toml"}, tmp_path) == [
        "PROMETHEUS_CONFIG=gone.toml: No such file or directory"
    ]


def test_a_section_must_be_a_table(tmp_path: Path) -> None:
    path = write(tmp_path, 'database = "sqlite:///x"\n')
    assert faults({}, tmp_path) == [f"{path}:1 database: must be a section: [database]"]


def test_only_redis_can_be_the_broker_and_its_url_is_not_repeated(tmp_path: Path) -> None:
    (fault,) = faults({"PROMETHEUS__BROKER__URL": "amqp://me:hunter2@host"}, tmp_path)
    assert fault.startswith("PROMETHEUS__BROKER__URL: must begin with redis://, rediss://, ")
    assert "hunter2" not in fault


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("redis://host:6379/0?password=hunter2", "Redis' client has no option 'password'"),
        ("redis://host:6379/0?health_check_interval=5", "Redis' client has no option 'health_"),
        ("redis://:hunter2#1@host:6379/0", "its port is not a number"),
        ("redis://:hun;ter2@host:6379/0", "its port is not a number"),
        ("redis://user:12/hunter2@host:6379/0", "it does not end with the number of a database"),
        ("redis://user:12?hunter2@host:6379/0", "Redis' client has no such option"),
        ("redis://user:12?hunter2=1@host:6379/0", "Redis' client has no such option"),
        ("redis://host:99999/0", "its port is not a number"),
        ("redis://host:6379/prod", "it does not end with the number of a database"),
        ("redis://host:6379/٣", "it does not end with the number of a database"),
        ("redis://host/0;sentinel://host:26379", "must begin with redis://, rediss://, "),
    ],
)
def test_a_broker_that_could_never_answer_is_refused(url: str, fault: str, tmp_path: Path) -> None:
    (found,) = faults({"PROMETHEUS__BROKER__URL": url}, tmp_path)
    assert found.startswith(f"PROMETHEUS__BROKER__URL: {fault}")
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("market", "source", "said"),
    [
        ("US_EQ", "bundeld", "Did you mean 'bundled'?"),
        ("US_EQ", "eodhd", "set PROMETHEUS__EODHD__TOKEN, or PROMETHEUS__EODHD__TOKEN_FILE"),
        ("EU_EQ", "bundled", "has prices of XNAS, XNYS only"),
    ],
)
def test_a_source_that_could_not_serve_its_market_is_refused(
    market: str, source: str, said: str, tmp_path: Path
) -> None:
    (found,) = faults({f"PROMETHEUS__SOURCES__{market}": source}, tmp_path)
    assert found.startswith(f"PROMETHEUS__SOURCES__{market}: {market}: ")
    assert said in found


@pytest.mark.parametrize(
    "url", ["redis://", "rediss://u:p%40@host/3", "redis+socket:///run/redis.sock?virtual_host=2"]
)
def test_ways_to_name_a_broker(url: str, tmp_path: Path) -> None:
    settings = load_settings({"PROMETHEUS__BROKER__URL": url}, tmp_path)
    assert settings.broker.url.get_secret_value() == url


def test_secrets_are_not_in_what_is_printed(tmp_path: Path) -> None:
    environ = {
        "PROMETHEUS__DATABASE__URL": "postgresql://me:hunter2@host/db",
        "PROMETHEUS__BROKER__URL": "redis://:hunter2@host/0",
    }
    settings = load_settings(environ, tmp_path)
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings.model_dump())
    assert "hunter2" not in repr(listing(settings))
    assert "postgresql://me:***@host/db" in {line.value for line in listing(settings)}


def test_a_token_comes_from_a_file_and_is_not_in_what_is_printed(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("65a1b2c3.hunter2\n")
    environ = {
        "PROMETHEUS__EODHD__TOKEN_FILE": "token",
        "PROMETHEUS__EODHD__SYMBOLS": "XNAS:AAPL, XNYS:IBM",
        "PROMETHEUS__SOURCES__US_EQ": "eodhd",
    }
    settings = load_settings(environ, tmp_path)
    feed = settings.eodhd.feed()
    assert feed.token.get_secret_value() == "65a1b2c3.hunter2"
    assert [listing.symbol for listing in feed.listings] == ["AAPL", "IBM"]
    for shown in (repr(settings), str(settings.model_dump()), repr(listing(settings)), repr(feed)):
        assert "hunter2" not in shown
    assert {line.name: line.value for line in listing(settings)}["eodhd.token"] == "***"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("TOKEN", "hunter2&x=1", "must be letters, digits, dots, dashes and underscores"),
        ("URL", "http://eodhd.com/api", "http only on this machine"),
        ("URL", "https://me:hunter2@eodhd.com/api", "must look like https://host/api"),
        ("URL", "https://eodhd.com:x/api", "must look like https://host/api"),
        ("URL", "https://:hunter2@eodhd.com/api", "must look like https://host/api"),
        ("URL", "https://@eodhd.com/api", "must look like https://host/api"),
        ("URL", "https://exa mple.com/api", "must look like https://host/api"),
        ("URL", "https://eodhd.com/a\x7fpi", "must look like https://host/api"),
        ("URL", "https://eodhd.com/a\npi", "must look like https://host/api"),
        ("SYMBOLS", "AAPL.US", "'AAPL.US' was given; XNAS:AAPL or XLON:CPG:USD was wanted."),
        ("SYMBOLS", "XNYSE:IBM", "'XNYSE:IBM' was given"),
        ("SYMBOLS", "XNIS:IBM", "the code of XNIS at eodhd.com is not known"),
        ("CODES", "Tokyo", "'Tokyo' was given; XTKS=TSE was wanted."),
        ("FACTORS", "US_EQ:MKT", "'US_EQ:MKT' was given; US_EQ:MKT=VTI.US was wanted."),
        ("SYMBOLS", "XLON:CPG:USD, XLON:CPG", "'XLON:CPG:USD' and 'XLON:CPG' were given"),
        ("CODES", "XTKS=TSE, XTKS=ABC", "'XTKS=TSE' and 'XTKS=ABC' were given; one was wanted."),
        ("FACTORS", "US_EQ:MKT=VTI.US, US_EQ:MKT=MTUM.US", "and 'US_EQ:MKT=MTUM.US' were given"),
        ("FACTORS", "US_EQX:MKT=VTI.US", "Did you mean 'US_EQ'?"),
        ("REQUESTS_PER_MINUTE", "0", "greater than or equal to 1"),
    ],
)
def test_what_the_feed_could_not_use_is_refused(
    key: str, value: str, said: str, tmp_path: Path
) -> None:
    (fault,) = faults({f"PROMETHEUS__EODHD__{key}": value}, tmp_path)
    assert fault.startswith(f"PROMETHEUS__EODHD__{key}: ")
    assert said in fault
    assert key == "SYMBOLS" or "hunter2" not in fault


def test_each_key_of_the_feed_is_blamed_for_its_own_entries(tmp_path: Path) -> None:
    environ = {
        "PROMETHEUS__EODHD__TOKEN": "abc",
        "PROMETHEUS__EODHD__SYMBOLS": "XNAS:AAPL, XNAS:AAPL",
        "PROMETHEUS__EODHD__FACTORS": "US_EQ:MKT",
    }
    symbols, factors = sorted(faults(environ, tmp_path), reverse=True)
    assert symbols.startswith("PROMETHEUS__EODHD__SYMBOLS: 'XNAS:AAPL' and 'XNAS:AAPL' were given")
    assert factors.startswith("PROMETHEUS__EODHD__FACTORS: 'US_EQ:MKT' was given")


def test_all_that_a_market_lacks_at_a_feed_is_told(tmp_path: Path) -> None:
    (fault,) = faults({"PROMETHEUS__SOURCES__ASIA_EQ": "eodhd"}, tmp_path)
    for said in ("needs a token", "needs symbols on XTKS or XHKG", "stands for the market"):
        assert said in fault


def test_secrets_in_the_query_of_a_url_are_not_in_what_is_printed(tmp_path: Path) -> None:
    environ = {
        "PROMETHEUS__DATABASE__URL": "postgresql://host/db?user=me&password=hunter2",
        "PROMETHEUS__BROKER__URL": "rediss://host/0?ssl_password=hunter2",
    }
    settings = load_settings(environ, tmp_path)
    assert "hunter2" not in repr(listing(settings))
    assert "postgresql://host/db?user=me&password=***" in {line.value for line in listing(settings)}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:pw@h:6379/0", "redis://:***@h:6379/0"),
        ("postgresql+psycopg://u:p@ss/w:rd@h/db", "postgresql+psycopg://u:***@h/db"),
        ("postgresql://u@/db?host=/run/pg", "postgresql://u@/db?host=/run/pg"),
        ("postgresql://h/db?user=u&password=pw&x=1", "postgresql://h/db?user=u&password=***&x=1"),
        (
            "postgresql://h/db?sslpassword=pw&passwd=pw",
            "postgresql://h/db?sslpassword=***&passwd=***",
        ),
        ("postgresql://h/db?oauth_client_secret=pw", "postgresql://h/db?oauth_client_secret=***"),
        ("postgresql://h/db?PASSWORD=p;w", "postgresql://h/db?PASSWORD=***"),
        ("postgresql://u:p;w@h/db", "postgresql://u:***@h/db"),
        ("rediss://h/0?ssl_password=pw&db=1", "rediss://h/0?ssl_password=***&db=1"),
        ("sqlite:////data/prometheus.db", "sqlite:////data/prometheus.db"),
        ("sentinel://:pw@a:1;sentinel://:pw@b:2", "sentinel://:***@a:1;sentinel://:***@b:2"),
        ("u:pw@host", "***"),
    ],
)
def test_safe_url_hides_every_password(url: str, shown: str) -> None:
    assert safe_url(url) == shown


def test_every_setting_is_documented_and_can_be_set_by_its_variable(tmp_path: Path) -> None:
    lines = listing(load_settings({}, tmp_path))
    assert all(line.description.endswith(".") for line in lines)
    given = {line.variable: line.value for line in lines if line.value not in ("", "(automatic)")}
    again = {line.name: line for line in listing(load_settings(given, tmp_path))}
    for line in lines:
        if line.variable in given:
            assert again[line.name].value == line.value
            assert again[line.name].origin == line.variable


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = load_settings({}, tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 1


def test_the_default_seed_is_that_of_the_synthetic_source() -> None:
    assert Settings().seed == DEFAULT_SEED


def test_every_section_is_reachable() -> None:
    names = {path[0] for path, _ in fields()}
    assert names == set(Settings.model_fields)


@pytest.mark.parametrize(
    ("text", "size"), [("512MB", 2**29), ("2GB", 2**31), ("1.5 gb", 3 * 2**29), ("0", 0)]
)
def test_memory_limit_is_read_with_its_unit(tmp_path: Path, text: str, size: int) -> None:
    settings = load_settings({"PROMETHEUS__WORKERS__MEMORY_LIMIT": text}, tmp_path)
    assert settings.workers.memory_limit == size


def test_memory_limit_is_shown_with_its_unit(tmp_path: Path) -> None:
    write(tmp_path, '[workers]\nmemory_limit = "1536MB"\n')
    shown = {line.name: line.value for line in listing(load_settings({}, tmp_path))}
    assert shown["workers.memory_limit"] == "1.5GB"
    assert {line.name: line.value for line in listing(load_settings({}, tmp_path / "no"))}[
        "workers.memory_limit"
    ] == "(automatic)"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('"much"', "'much' is not an amount of memory; write 512MB, 2GB or 0"),
        ("2000", "2000 has no unit; write 512MB, 2GB or 0"),
        ('"20MB"', "must be at least 256MB, because a worker's process needs a part of it for "),
    ],
)
def test_memory_limit_that_can_not_be_used_is_a_fault(
    tmp_path: Path, value: str, reason: str
) -> None:
    path = write(tmp_path, f"[workers]\nmemory_limit = {value}\n")
    (fault,) = faults({}, tmp_path)
    assert fault.startswith(f"{path}:2 [workers] memory_limit: {reason}")


def test_names_of_the_web_api_are_written_without_ports(tmp_path: Path) -> None:
    web = load_settings({"PROMETHEUS__WEB__HOSTS": "Web.Example, 10.0.0.7, fe80::1"}, tmp_path).web
    assert web.hosts == ("web.example", "10.0.0.7", "fe80::1")
    assert not web.only_here
    for host in ("web.example:80", "https://web.example", "*"):
        (fault,) = faults({"PROMETHEUS__WEB__HOSTS": host}, tmp_path)
        assert f"{host!r} is no name or address" in fault


def test_who_looks_for_what_is_wrong_does_so_twice_before_another_takes_over(
    tmp_path: Path,
) -> None:
    (fault,) = faults({"PROMETHEUS__ALERTS__LOOK_EVERY": "16s"}, tmp_path)
    assert "must be at most 15s" in fault


def test_where_people_find_the_pages_is_an_url_that_a_path_can_be_put_behind(
    tmp_path: Path,
) -> None:
    for given, meant in (
        ("https://desk.example/jobs/", "https://desk.example/jobs"),
        ("http://10.0.0.7:8765", "http://10.0.0.7:8765"),
        ("http://[fe80::1]:8765/", "http://[fe80::1]:8765"),
    ):
        assert load_settings({"PROMETHEUS__WEB__URL": given}, tmp_path).web.url == meant
    for url in ("desk.example", "ftp://x", "https://x/?a", "https://me:pw@x", "https://", "/p"):
        (fault,) = faults({"PROMETHEUS__WEB__URL": url}, tmp_path)
        assert "must look like https://desk.example/prometheus" in fault


def test_a_path_below_which_a_proxy_serves_it_is_a_plain_one(tmp_path: Path) -> None:
    for given, meant in (("/desk/jobs/", "/desk/jobs"), ("/p-1.x", "/p-1.x"), ("/", "")):
        found = load_settings({"PROMETHEUS__WEB__ROOT_PATH": given}, tmp_path)
        assert found.web.root_path == meant
    for path in ("desk", "//desk", "/desk//", "/a/../b", "/.", "/a b", "/%64", "https://x/y"):
        (fault,) = faults({"PROMETHEUS__WEB__ROOT_PATH": path}, tmp_path)
        assert "must look like /prometheus" in fault


@pytest.mark.parametrize(
    ("address", "only_here"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False)]
)
def test_who_reaches_the_web_api_follows_from_its_address(
    tmp_path: Path, address: str, only_here: bool
) -> None:
    settings = load_settings({"PROMETHEUS__WEB__ADDRESS": address}, tmp_path)
    assert settings.web.only_here is only_here


def test_proxies_are_addresses_or_networks(tmp_path: Path) -> None:
    def load(proxies: str) -> tuple[str, ...]:
        return load_settings({"PROMETHEUS__WEB__PROXIES": proxies}, tmp_path).web.proxies

    assert load("10.0.0.7,10.1.2.3/24") == ("10.0.0.7/32", "10.1.2.0/24")
    for wrong in ("*", "proxy.internal"):
        (fault,) = faults({"PROMETHEUS__WEB__PROXIES": wrong}, tmp_path)
        assert f"PROMETHEUS__WEB__PROXIES: '{wrong}' does not appear to be" in fault


def test_a_channel_is_a_secret_wherever_it_is_said(tmp_path: Path) -> None:
    token = "T0kenOfTheChannel"
    write(tmp_path, f'[channels]\ndesk = "json://there/{token}"\n[routes]\ndesk = "market=US_EQ"\n')
    file = write(tmp_path, f"slack://{token}/B0BBBBBBB/abcDEF123ghi\n", "oncall")
    environ = {
        "PROMETHEUS__CHANNELS__DESK": f"json://here/{token}",  # a variable is stronger
        "PROMETHEUS__CHANNELS__ONCALL_FILE": str(file),
        "PROMETHEUS__ALERTS__PING_URL": f"https://there/{token}",
    }
    settings = load_settings(environ, tmp_path)
    assert settings.channels["desk"].get_secret_value() == f"json://here/{token}"
    assert settings.channels["oncall"].get_secret_value().endswith("ghi")
    shown = {line.name: line.value for line in listing(settings)}
    assert shown["channels"] == "desk=json://***, oncall=slack://***"
    assert shown["alerts.ping_url"] == "https://***"
    assert safe_text(f"POST /{token} of json://here/{token}: abcDEF123ghi") == (
        "POST /*** of json://here/***: ***"
    )


def test_faults_of_channels_and_routes_are_told_together_and_give_nothing_away(
    tmp_path: Path,
) -> None:
    write(tmp_path, "[channels]\nDesk = 'json://there'\n[routes]\ndesk = 'kind=job_faild'\n")
    environ = {
        "PROMETHEUS__CHANNELS__ONCALL": "T0kenOfTheChannel",
        "PROMETHEUS__ALERTS__PING_URL": "T0kenOfTheChannel",
    }
    text = "\n".join(faults(environ, tmp_path))
    for words in (
        "'Desk' is no name of a channel",
        "oncall must be a URL",
        "there is no kind 'job_faild'. Did you mean 'job_failed'?",
        "PROMETHEUS__ALERTS__PING_URL: must look like https://host/path",
    ):
        assert words in text
    assert "T0ken" not in text
    write(tmp_path, "[channels]\ndesk = 86753\n")
    (text,) = faults({}, tmp_path)
    assert "86753" not in text
    write(tmp_path, "[channels]\ndesk = 'json://there'\n[routes]\ndeck = 'market=US_EQ'\n")
    (text,) = faults({}, tmp_path)
    assert "deck: there is no such channel. Did you mean 'desk'?" in text
