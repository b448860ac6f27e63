"""No statement reads a whole table that grows: each is explained on both databases."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

import storage
from storage.migrations import statements_from, version_table
from storage.postgres_statements import TEXTS, translated
from storage.schema import TABLES, WORDS
from storage.search import FOUND
from storage.sqlite_writer import STATEMENTS
from storage.sqlite_writer import translated as sqlite_text
from tests.databases import PostgresServer

SOURCES = sorted(Path(storage.__file__).parent.glob("*.py"))
WHOLE_TABLES_ARE_THEIR_PURPOSE = (
    "beside.py",
    "check.py",
    "check_queries.py",
    "migrations.py",
    "schema.py",
    "size.py",
)
# Looked for by a part of a name, or summed up for administrators: as many rows as users, and small.
READ_WHOLE = {"known_users", "media_usage"}
SMALL = {
    "stream",
    "views",
    "workers",
    "numbers",
    "meta",
    "timelines",
    "own_keys",
    "appservices",
    "deliveries",
    "blocked_servers",
    "joins_under_way",
    "blobs_in_doubt",
    "judged_hashes",
}
OF_WHOLE_TABLES = (
    "DELETE FROM one_time_keys WHERE claim_nid IS NULL",
    "UPDATE fallback_keys SET used = 1",
    "UPDATE device_lists SET version = version + ? WHERE server = ''",
    "UPDATE device_lists SET version = version + $1 WHERE server = ''",
)
ORDERED_BY_AN_INDEX = ("LIMIT 1", "ORDER BY joined DESC", "ORDER BY event_nid LIMIT")


class Whole(ast.NodeTransformer):
    """Puts `NAME + "text"` in one text; a name's own text, which begins others, is none."""

    def visit_Module(self, module: ast.Module) -> ast.AST:
        begun = {
            node.left.id
            for node in ast.walk(module)
            if isinstance(node, ast.BinOp) and isinstance(node.left, ast.Name)
        }
        self._begins: dict[str, str] = {}
        for node in list(module.body):
            match node:
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str(text))):
                    if name in begun:
                        self._begins[name] = text
                        module.body.remove(node)
        return self.generic_visit(module)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        match node:
            case ast.BinOp(left=ast.Name(id=name), right=ast.Constant(value=str(text))):
                if name in self._begins:
                    return ast.Constant(self._begins[name] + text)
        return self.generic_visit(node)


def texts(dialect: str) -> Iterator[str]:
    """Every statement of the package that the dialect runs, as it runs it."""
    for source in SOURCES:
        if source.name in WHOLE_TABLES_ARE_THEIR_PURPOSE:
            continue
        own = source.name.split("_")[0].removesuffix(".py")
        if own not in ("sqlite", "postgres", "postgresql"):
            own = ""
        if own and not dialect.startswith(own):
            continue
        if source.name == "search.py":
            if dialect == "sqlite":
                yield sqlite_text(FOUND["sqlite"])
            else:
                yield translated(FOUND["postgresql"], (False,) * 3)
            continue
        tree = Whole().visit(ast.parse(source.read_text()))
        parts = {
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for part in node.values
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.match(r"(SELECT|INSERT INTO|UPDATE(?! SET)|DELETE FROM|WITH) ", node.value)
                and id(node) not in parts
            ):
                text: Any = node.value
                if dialect == "sqlite":
                    yield sqlite_text(text)
                elif own:
                    yield text
                else:
                    yield translated(text, (False,) * text.count("?"))
    for table in TABLES.values():
        grouped: Any = STATEMENTS[table] if dialect == "sqlite" else TEXTS[table]
        # A virtual table can't be asked to put a row in another's place, and never is.
        virtual = table.name == WORDS and dialect == "sqlite"
        yield from (grouped.insert, grouped.delete, *(() if virtual else (grouped.put,)))


def test_the_statements_are_found() -> None:
    assert len(set(texts("sqlite"))) > 140
    assert len(set(texts("postgresql"))) > 140


def test_sqlite_uses_an_index() -> None:
    connection = apsw.Connection(":memory:")
    for statement in (version_table("sqlite"), *statements_from(0, "sqlite")):
        connection.execute(statement)
    whole = []
    for text in sorted(set(texts("sqlite"))):
        count = 1 + max(text.count("?"), 3)
        for row in connection.execute(
            f"EXPLAIN QUERY PLAN {text}", (None,) * _parameters(text, count)
        ):
            # Words are looked up by the virtual table itself.
            scanned = re.match(r"SCAN (\w+)(?! VIRTUAL TABLE INDEX)\b", str(row[3]))
            if scanned and not _may_be_scanned(scanned[1], text):
                whole.append((scanned[1], text))
    assert whole == []


def _parameters(text: str, most: int) -> int:
    numbered = [int(n) for n in re.findall(r"\?(\d+)", text)]
    return min(most, max(numbered)) if numbered else text.count("?")


def _may_be_scanned(name: str, text: str) -> bool:
    tables = {table.name for table in TABLES.values()}
    aliased = re.search(rf"(\w+) AS {name}\b", text)
    table = aliased[1] if aliased and name not in tables else name
    return (
        table not in tables
        or table in SMALL | READ_WHOLE
        or text in OF_WHOLE_TABLES
        or any(mark in text for mark in ORDERED_BY_AN_INDEX)
    )


@pytest.fixture
def connection(postgres: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    dsn = postgres.new_database()
    with psycopg.connect(dsn) as opened:
        # The tables are empty: without this a whole read would look cheapest.
        for way in ("seqscan", "hashjoin", "mergejoin"):
            opened.execute(f"SET enable_{way} = off".encode())
        yield opened
    postgres.drop(dsn)


def test_postgresql_uses_an_index(connection: psycopg.Connection[Any]) -> None:
    whole = []
    for text in sorted(set(texts("postgresql"))):
        explained = connection.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {text}".encode())
        (plan,) = explained.fetchone() or (None,)
        parsed = plan if isinstance(plan, list) else json.loads(str(plan))
        whole += [
            (node["Relation Name"], text)
            for node in _nodes(parsed[0]["Plan"])
            if _reads_all(node) and not _may_be_scanned(node["Relation Name"], text)
        ]
    assert whole == []


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _reads_all(node: dict[str, Any]) -> bool:
    kind = node["Node Type"]
    if kind == "Seq Scan":
        return True
    return kind in ("Index Scan", "Index Only Scan") and "Index Cond" not in node
