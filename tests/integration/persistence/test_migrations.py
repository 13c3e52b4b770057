"""Migrations: an upgraded database is what the models say, and one that is not is told apart."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.engine.interfaces import ReflectedCheckConstraint

import prometheus.persistence.tables
import prometheus.pipelines.equities.tables  # noqa: F401  adds its tables to the metadata
from prometheus.persistence import migrate
from prometheus.persistence.engine import create_engine, reading, writing
from prometheus.persistence.metadata import metadata
from prometheus.persistence.migrate import DatabaseRevisionError


def tables(engine: Engine) -> dict[str, Any]:
    """Everything the database itself says of its tables."""
    inspector = inspect(engine)
    triggers = triggers_of(engine)
    return {
        name: {
            "triggers": triggers.get(name, []),
            "columns": [
                {key: str(column[key]) for key in ("name", "type", "nullable", "default")}
                for column in inspector.get_columns(name)
            ],
            "primary key": inspector.get_pk_constraint(name),
            "foreign keys": sorted(inspector.get_foreign_keys(name), key=str),
            "unique": sorted(inspector.get_unique_constraints(name), key=str),
            "indexes": sorted((shown(index) for index in inspector.get_indexes(name)), key=str),
            "checks": sorted(map(condition, inspector.get_check_constraints(name))),
        }
        for name in inspector.get_table_names()
        if name != "alembic_version"
    }


def triggers_of(engine: Engine) -> dict[str, list[str]]:
    """Return them by their table, as the database writes them, with what they call."""
    asked = {
        "postgresql": "SELECT tgrelid::regclass::text,"
        " pg_get_triggerdef(oid) || pg_get_functiondef(tgfoid)"
        " FROM pg_trigger WHERE NOT tgisinternal ORDER BY 2",
        "sqlite": "SELECT tbl_name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY 2",
    }
    found: dict[str, list[str]] = {}
    with reading(engine) as connection:
        for table, told in connection.execute(text(asked[engine.dialect.name])):
            found.setdefault(table, []).append(told)
    return found


def shown(index: Any) -> dict[str, str]:
    options = {key: str(value) for key, value in index.get("dialect_options", {}).items()}
    return {key: str(value) for key, value in index.items() if key != "dialect_options"} | options


def condition(check: ReflectedCheckConstraint) -> tuple[str, str]:
    return str(check["name"]), re.sub(r"\s+", " ", check["sqltext"])


def test_upgraded_empty_database_is_what_the_models_say(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []


def test_upgraded_database_equals_one_made_of_the_models_in_all_it_says_of_itself(
    empty_database_url: str,
) -> None:
    engine = create_engine(empty_database_url)
    with writing(engine) as connection:
        metadata.create_all(connection)
    made = tables(engine)
    with writing(engine) as connection:
        metadata.drop_all(connection)
    migrate.upgrade(empty_database_url)
    assert tables(engine) == made
    engine.dispose()


def test_up_down_and_up_again_leaves_the_same_tables(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    migrate.upgrade(empty_database_url)
    first = tables(engine)
    assert migrate.current(engine) == migrate.head()
    migrate.downgrade(empty_database_url, "base")
    assert tables(engine) == {}
    assert migrate.current(engine) is None
    migrate.upgrade(empty_database_url)
    assert tables(engine) == first
    engine.dispose()


def test_upgrading_twice_changes_nothing(database_url: str) -> None:
    engine = create_engine(database_url)
    before = tables(engine)
    migrate.upgrade(database_url)
    assert tables(engine) == before
    engine.dispose()


def test_revisions_are_those_of_the_scripts_and_need_no_alembic(engine: Engine) -> None:
    scripts = [script.revision for script in migrate._scripts().walk_revisions()]
    assert list(migrate.revisions()) == scripts[::-1]
    with engine.connect() as connection:
        kept = MigrationContext.configure(connection).get_current_revision()
    assert migrate.current(engine) == kept == migrate.head() == scripts[0]
    asked = "import sys, workers, prometheus.monitoring.app; sys.exit('alembic' in sys.modules)"
    subprocess.run([sys.executable, "-c", asked], check=True)


def test_clocks_one_row_is_there_and_live(engine: Engine) -> None:
    with reading(engine) as connection:
        rows = connection.execute(
            text("SELECT id, speed, anchor_market_at, anchor_wall_at, markets FROM market_clock")
        ).all()
    assert rows == [(1, 1.0, None, None, None)]


class TestCheck:
    def test_database_of_this_release_is_accepted(self, engine: Engine) -> None:
        migrate.check(engine)

    def test_empty_database_is_refused_with_the_remedy(self, empty_database_url: str) -> None:
        engine = create_engine(empty_database_url)
        with pytest.raises(DatabaseRevisionError) as raised:
            migrate.check(engine)
        engine.dispose()
        assert raised.value.found is None
        assert "without Prometheus' tables" in str(raised.value)
        assert str(raised.value).endswith(
            f"this release needs revision {migrate.head()}. Run: prometheus db upgrade"
        )

    def test_newer_database_is_refused_and_no_upgrade_is_advised(self, engine: Engine) -> None:
        self.stamp(engine, "9999")
        with pytest.raises(DatabaseRevisionError) as raised:
            migrate.check(engine)
        assert raised.value.found == "9999"
        assert "at revision 9999, which this release does not know" in str(raised.value)
        assert "Install that release." in str(raised.value)
        assert "db upgrade" not in str(raised.value)

    def test_older_database_is_refused_with_the_remedy(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        # Give this release one more revision, which the database lacks.
        found = migrate.head()
        folder = tmp_path / "100% scripts"
        versions = folder / "versions"
        versions.mkdir(parents=True)
        source = Path(migrate._scripts().dir)
        for script in (source / "versions").glob("*.py"):
            (versions / script.name).write_text(script.read_text())
        (folder / "env.py").write_text((source / "env.py").read_text())
        (versions / "9998_next.py").write_text(
            f"revision = '9998'\ndown_revision = {found!r}\n"
            f"def upgrade(): pass\ndef downgrade(): pass\n"
        )
        monkeypatch.setattr(migrate, "_INSTALLED", folder)
        with pytest.raises(DatabaseRevisionError) as raised:
            migrate.check(engine)
        assert (raised.value.found, raised.value.wanted) == (found, "9998")
        assert f"at revision {found}, and this release needs revision 9998" in str(raised.value)
        assert "Run: prometheus db upgrade" in str(raised.value)
        migrate.upgrade(engine.url.render_as_string(hide_password=False))
        migrate.check(engine)

    def test_password_is_not_shown(self) -> None:
        error = DatabaseRevisionError("postgresql://u:***@h/db", None, "0001")
        assert "postgresql://u:***@h/db is without" in str(error)

    def stamp(self, engine: Engine, revision: str) -> None:
        with writing(engine) as connection:
            connection.execute(
                text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision}
            )
