"""The database behind human-feedback: an SQLite file or PostgreSQL; nothing here knows what is stored.

All calls run on one thread, off the event loop, in the order they came. Those that wait together share one
transaction, each in a savepoint of its own: a burst of two hundred writers costs a few synchronisations of the disk,
not two hundred. What a call wrote is on the disk (SQLite: write-ahead log, `synchronous=FULL`) when it returns.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from shared.errors import InfrastructureError, SettingsError

BUSY_TIMEOUT_S = 5.0
MAX_CALLS_A_TRANSACTION = 64
POSTGRES_LOCK = 0x76_70_64
"""Writers take it for their transaction, so that also several replicas write one after another, as to a file."""

Result = TypeVar("Result")


@dataclass
class Call:
    """What is to be done, who waits for it, and what came of it; `result` is an exception where it failed."""

    do: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    result: Any = None

    def tell(self) -> None:
        """Wake up who waits, if it still does."""
        if self.future.done():
            return
        if isinstance(self.result, Exception):
            self.future.set_exception(self.result)
        else:
            self.future.set_result(self.result)


class Database:
    """The database at `place`, a path or a `postgresql://` URL; `open` it before use.

    `run` raises what the call raised, and InfrastructureError where the database failed.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._engine = _engine(place)
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="human-feedback-database", daemon=True)

    async def open(self, prepare: Callable[[Connection], None]) -> None:
        """Connect, and let `prepare` make the tables."""
        self._thread.start()
        await self.run(prepare)

    async def close(self) -> None:
        """Finish what was asked for, and disconnect."""
        self._calls.put(None)
        await asyncio.to_thread(self._thread.join)
        self._engine.dispose()

    async def run(self, call: Callable[[Connection], Result]) -> Result:
        """The result of `call`, once it is on the disk."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._calls.put(Call(call, future))
        return await future

    def _work(self) -> None:
        while (first := self._calls.get()) is not None:
            together, ended = [first], False
            while not ended and len(together) < MAX_CALLS_A_TRANSACTION and not self._calls.empty():
                following = self._calls.get()
                ended = following is None
                together += [following] if following is not None else []
            # A caller that is gone by now wants nothing stored; one that goes from here on is too late.
            if wanted := [call for call in together if not call.future.cancelled()]:
                self._transact(wanted)
                # The event loop is woken once for all of them.
                wanted[0].future.get_loop().call_soon_threadsafe(_tell, wanted)
            if ended:
                return

    def _transact(self, calls: list[Call]) -> None:
        try:
            with self._engine.begin() as db:
                for call in calls:
                    self._run(db, call)
        except (SQLAlchemyError, OSError) as error:
            failure = self._failure(error)
            for call in calls:
                call.result = failure

    def _run(self, db: Connection, call: Call) -> None:
        # The statements themselves: SQLAlchemy's nested transactions take as long as a query.
        db.exec_driver_sql("SAVEPOINT one_call")
        try:
            call.result = call.do(db)
            db.exec_driver_sql("RELEASE one_call")
        except Exception as error:  # whatever a call raises is its caller's, and undoes nothing of the others
            if db.invalidated:
                raise
            db.exec_driver_sql("ROLLBACK TO one_call")
            call.result = self._failure(error) if isinstance(error, SQLAlchemyError) else error

    def _failure(self, error: Exception) -> InfrastructureError:
        reason = error.orig if isinstance(error, DBAPIError) else error
        shown = self._engine.url.render_as_string() if "://" in self.place else self.place
        sentence = " ".join(str(reason).split()).rstrip(".")
        failure = InfrastructureError(f"The critique store {shown} failed: {sentence}.")
        failure.__cause__ = error
        return failure


def _tell(calls: list[Call]) -> None:
    for call in calls:
        call.tell()


def _engine(place: str) -> Engine:
    if "://" not in place:
        return _sqlite(Path(place))
    try:
        url = make_url(place)
        if url.get_backend_name() != "postgresql":
            raise ArgumentError("not PostgreSQL")
        engine = create_engine(url.set(drivername="postgresql+psycopg"), pool_size=1, pool_pre_ping=True)
    except ArgumentError as error:
        raise SettingsError(
            "human_feedback.database is neither a path nor a URL of the form postgresql://USER@HOST/NAME."
        ) from error
    except ModuleNotFoundError as error:
        raise SettingsError(
            "human_feedback.database is a PostgreSQL URL, and its driver is not installed: pip install 'vpd[postgres]'."
        ) from error
    event.listen(engine, "begin", lambda db: db.exec_driver_sql(f"SELECT pg_advisory_xact_lock({POSTGRES_LOCK})"))
    return engine


def _sqlite(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})

    def connected(connection: Any, _: Any) -> None:
        # The driver would begin transactions late, and commit at changes of the tables.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    def connecting(*_: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)

    event.listen(engine, "do_connect", connecting)
    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", lambda db: db.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine
