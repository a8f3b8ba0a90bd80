"""Blobs: one contract for a folder and for a bucket, and what each does when its storage fails."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lowtide.kernel.errors import (
    BlobExists,
    BlobsLost,
    BlobsRefused,
    Busy,
    LowtideError,
    NotFound,
    SetupError,
    StorageFull,
    TooLarge,
)
from lowtide.kernel.ids import SeededIds
from lowtide.storage.blobs import MAX_BLOB, Blobs, DiskBlobs, S3Blobs, S3Bucket, put_once, read_bucket
from tests.s3_server import BUCKET, KEY_ID, SECRET, S3Server

pytestmark = pytest.mark.anyio


def bucket_of(server: S3Server, prefix: str, **changes: str) -> S3Bucket:
    """The tests' bucket, with a prefix of the caller's own."""
    chosen = {"endpoint": server.endpoint, "key_id": KEY_ID, "secret": SECRET} | changes
    return read_bucket(f"s3://{BUCKET}/{prefix}", **chosen)


@pytest.fixture(params=["disk", "s3"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path, ids: SeededIds) -> AsyncIterator[Blobs]:
    """Each test that asks for it runs on both."""
    opened: Blobs
    if request.param == "disk":
        opened = DiskBlobs(tmp_path / "blobs", ids)
    else:
        server = request.getfixturevalue("s3_server")
        opened = S3Blobs(bucket_of(server, tmp_path.name.replace("[", "_").replace("]", "_")))
    yield opened
    await opened.close()


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is synced, in order; every draft is called so."""
    names: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        name = Path(f"/proc/self/fd/{handle}").readlink().name
        names.append("draft" if name.startswith(".") else name)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


class TestContract:
    async def test_a_blob_comes_back_as_it_was_put(self, blobs: Blobs) -> None:
        """Content, size and time; a second put takes its place, a deletion takes it away."""
        content = bytes(range(256)) * 20_000
        for each in (content, b"", b"short"):
            await blobs.put("folder/a.bin", each)
            assert await blobs.get("folder/a.bin") == each
            known = await blobs.head("folder/a.bin")
            assert known is not None
            assert (known.key, known.size) == ("folder/a.bin", len(each))
            assert known.modified_at > 1_700_000_000_000
        await blobs.delete("folder/a.bin")
        await blobs.delete("folder/a.bin")
        assert await blobs.head("folder/a.bin") is None
        assert await blobs.list() == []
        with pytest.raises(NotFound):
            await blobs.get("folder/a.bin")

    async def test_a_range_is_read_without_the_rest(self, blobs: Blobs) -> None:
        """A range beyond the end is what is there of it, and nothing behind it."""
        await blobs.put("ten", b"0123456789")
        for first, length, found in (
            (0, 3, b"012"),
            (3, 4, b"3456"),
            (8, 100, b"89"),
            (4, None, b"456789"),
            (10, 5, b""),
            (50, None, b""),
            (2, 0, b""),
        ):
            assert await blobs.get("ten", first=first, length=length) == found

    async def test_more_than_the_limit_is_not_read(self, blobs: Blobs) -> None:
        """What is larger than the caller can hold is refused as a whole; so is a put beyond the most."""
        await blobs.put("ten", b"0123456789")
        with pytest.raises(TooLarge):
            await blobs.get("ten", limit=9)
        assert await blobs.get("ten", first=1, limit=9) == b"123456789"
        with pytest.raises(TooLarge):
            await blobs.put("huge", bytes(MAX_BLOB + 1))
        assert await blobs.head("huge") is None

    async def test_a_blob_is_created_once(self, blobs: Blobs) -> None:
        """Of many who create at the same time one succeeds, and its content stays."""
        tries = [blobs.put("once", b"%d" % number, create=True) for number in range(8)]
        done = await asyncio.gather(*tries, return_exceptions=True)
        [winner] = [number for number, outcome in enumerate(done) if outcome is None]
        assert {type(outcome) for outcome in done} == {type(None), BlobExists}
        assert await blobs.get("once") == b"%d" % winner
        await put_once(blobs, "once", b"%d" % winner)
        with pytest.raises(BlobExists):
            await put_once(blobs, "once", b"another")
        assert await blobs.get("once") == b"%d" % winner

    async def test_a_list_goes_on_where_the_page_before_ended(self, blobs: Blobs) -> None:
        """Pages of any size hold every blob once, also behind one that was deleted, and only the folder's."""
        flat = [f"flat/{name}" for name in ("0", "1", "10", "2", "A", "_", "a", "a-b", "b.c")]
        mixed = ["mixed/a", "mixed/a-b", "mixed/deep/er/a", "mixed/deep/z", "mixed/z"]
        for key in (*reversed(flat), *mixed, "flat2"):
            await blobs.put(key, b"x")
        assert [blob.key for blob in await blobs.list("flat/")] == flat
        for folder, keys in (("flat/", flat), ("mixed/", mixed), ("", [*flat, *mixed, "flat2"])):
            for size in (1, 2, 1_000):
                found: list[str] = []
                while page := await blobs.list(folder, found[-1] if found else "", size):
                    found += [blob.key for blob in page]
                assert sorted(found) == sorted(keys)
        await blobs.delete("flat/10")
        assert [blob.key for blob in await blobs.list("flat/", "flat/10", 2)] == ["flat/2", "flat/A"]
        assert await blobs.list("none/") == []

    @pytest.mark.parametrize(
        "key",
        [
            *("", "/", "/a", "a/", "a//b", ".", "..", "a/../b", ".a", "a/.b", "a b", "a\0", "ä", "a\n"),
            *("a" * 201, "a/" * 300 + "a", "a\\b", "a:b", "a%2e"),
        ],
        ids=lambda key: ascii(key)[:20],
    )
    async def test_a_key_that_could_lead_elsewhere_is_none(self, blobs: Blobs, key: str) -> None:
        """Nothing is asked of the storage for it."""
        calls: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: blobs.put(key, b"x"),
            lambda: blobs.get(key),
            lambda: blobs.head(key),
            lambda: blobs.delete(key),
        )
        for call in calls:
            with pytest.raises(ValueError, match="no key"):
                await call()
        if key:
            with pytest.raises(ValueError, match="no folder"):
                await blobs.list(f"{key}//")

    async def test_after_the_end_nothing_is_done(self, blobs: Blobs) -> None:
        """A closed storage answers with a transient error, and writes nothing."""
        await blobs.put("a", b"x")
        await blobs.close()
        for call in (blobs.put("b", b"x"), blobs.get("a"), blobs.list()):
            with pytest.raises(BlobsLost):
                await call


class TestDisk:
    async def test_a_reader_never_sees_a_part(self, tmp_path: Path, ids: SeededIds) -> None:
        """While a blob is replaced again and again, it is always one or the other; no draft is listed."""
        blobs = DiskBlobs(tmp_path, ids)
        first, second = b"1" * 300_000, b"2" * 200_000
        await blobs.put("a", first)

        async def replace() -> None:
            for _ in range(10):
                await blobs.put("a", second)
                await blobs.put("a", first)

        writing = asyncio.create_task(replace())
        while not writing.done():
            assert await blobs.get("a") in (first, second)
            assert [blob.key for blob in await blobs.list()] == ["a"]
        await writing
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    async def test_what_was_synced_is_told_in_order(
        self, tmp_path: Path, ids: SeededIds, synced: list[str]
    ) -> None:
        """The content is synced before it gets its name, the folder afterwards; first those above it."""
        await DiskBlobs(tmp_path / "blobs", ids).put("deep/a", b"x", create=True)
        assert synced == [tmp_path.name, "blobs", "draft", "deep"]

    async def test_folders_of_a_process_that_was_killed_are_synced(
        self, tmp_path: Path, ids: SeededIds, synced: list[str]
    ) -> None:
        """It may have made them and no more; the second blob in one costs no further syncs."""
        (tmp_path / "blobs" / "deep").mkdir(parents=True)
        blobs = DiskBlobs(tmp_path / "blobs", ids)
        await blobs.put("deep/a", b"x")
        assert synced == [tmp_path.name, "blobs", "draft", "deep"]
        synced.clear()
        await blobs.put("deep/b", b"x")
        assert synced == ["draft", "deep"]

    async def test_what_holds_the_folder_need_not_be_synced(
        self, tmp_path: Path, ids: SeededIds, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A folder that is mounted into something read-only holds blobs; what it holds is synced strictly."""
        folder, real = tmp_path / "blobs", os.fsync
        (folder / "deep").mkdir(parents=True)
        never = [tmp_path]

        def fsync(handle: int) -> None:
            if Path(f"/proc/self/fd/{handle}").readlink() in never:
                raise OSError(errno.EINVAL, "Invalid argument")
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)
        await DiskBlobs(folder, ids).put("deep/a", b"x")
        never.append(folder)
        with pytest.raises(BlobsLost):
            await DiskBlobs(folder, ids).put("deep/b", b"x")

    async def test_a_blob_that_is_there_already_is_durable(
        self, tmp_path: Path, ids: SeededIds, synced: list[str]
    ) -> None:
        """Another process may not have come to the sync: who is told that it is there may build on it."""
        await DiskBlobs(tmp_path, ids).put("deep/a", b"x", create=True)
        second = DiskBlobs(tmp_path, ids)
        for call in (second.put("deep/a", b"y", create=True), put_once(second, "deep/a", b"y")):
            synced.clear()
            with pytest.raises(BlobExists):
                await call
            assert synced[-2:] == ["draft", "deep"]

    async def test_what_killed_writers_have_left_goes(self, tmp_path: Path, ids: SeededIds) -> None:
        """At the first put of a later process: drafts that are old, not those that others may be writing.

        Nor blobs, nor other files with a dot.
        """
        (tmp_path / "deep").mkdir()
        old, young = tmp_path / "deep" / f".{'0' * 32}", tmp_path / "deep" / f".{'1' * 32}"
        others = [tmp_path / "deep" / name for name in (".keep", f".nfs{'0' * 28}", "blob")]
        for path in (old, young, *others):
            path.write_bytes(b"x")
            if path is not young:
                os.utime(path, (0, 0))
        blobs = DiskBlobs(tmp_path, ids)
        assert [blob.key for blob in await blobs.list()] == ["deep/blob"]
        assert old.exists(), "who only reads removes nothing"
        await blobs.put("deep/a", b"x")
        assert {path.name for path in (tmp_path / "deep").iterdir()} == {
            "a",
            young.name,
            *(path.name for path in others),
        }

    @pytest.mark.parametrize(
        ("number", "error"),
        [
            (errno.ENOSPC, StorageFull),
            (errno.EIO, BlobsLost),
            (errno.EROFS, BlobsRefused),
            (errno.EACCES, BlobsRefused),
        ],
    )
    async def test_a_failing_disk_is_told_and_leaves_nothing(
        self,
        tmp_path: Path,
        ids: SeededIds,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        error: type[LowtideError],
    ) -> None:
        """A sync that fails is an error of its kind, and the blob is not there."""

        def fail(_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(error):
            await DiskBlobs(tmp_path, ids).put("a", b"x")
        assert list(tmp_path.iterdir()) == []

    async def test_a_blob_is_no_folder(self, tmp_path: Path, ids: SeededIds) -> None:
        """A key below another blob's, or above, is refused; the blob stays."""
        blobs = DiskBlobs(tmp_path, ids)
        await blobs.put("a", b"x")
        await blobs.put("b/c", b"x")
        for key in ("a/b", "b"):
            with pytest.raises(BlobsRefused):
                await blobs.put(key, b"y")
        assert await blobs.get("a") == await blobs.get("b/c") == b"x"

    async def test_a_disk_that_hangs_is_not_waited_for(
        self, tmp_path: Path, ids: SeededIds, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A call ends at its deadline; further ones are refused once too many hang."""
        blobs = DiskBlobs(tmp_path, ids, deadline=0.1)
        reader, writer = os.pipe()
        monkeypatch.setattr(os, "fsync", lambda _: os.read(reader, 1))
        calls = [blobs.put(f"a{number}", b"x") for number in range(64)]
        outcomes = await asyncio.gather(*calls, blobs.put("one-more", b"x"), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes[:64]} == {BlobsLost}
        assert isinstance(outcomes[64], Busy)
        await blobs.close()
        os.close(writer)


class TestS3:
    @pytest.mark.parametrize("wrong", [{"secret": "wrong"}, {"key_id": "nobody"}])
    async def test_wrong_keys_are_told_without_the_secret(
        self, s3_server: S3Server, wrong: dict[str, str]
    ) -> None:
        """A refused key is an error with the storage's reason and a hint; no secret is in it."""
        blobs = S3Blobs(bucket_of(s3_server, "keys", **wrong))
        for call in (blobs.put("a", b"x"), blobs.get("a"), blobs.head("a"), blobs.list(), blobs.delete("a")):
            with pytest.raises(BlobsRefused) as caught:
                await call
            assert "s3_secret" in caught.value.hint
            assert SECRET not in str(caught.value)
        good = S3Blobs(bucket_of(s3_server, "keys"))
        assert await good.list() == []

    async def test_a_server_that_is_gone_is_told(self, s3_server: S3Server) -> None:
        """Nobody listens: a transient error, soon."""
        blobs = S3Blobs(bucket_of(s3_server, "x", endpoint="http://127.0.0.1:1"), deadline=10)
        for call in (blobs.put("a", b"x"), blobs.get("a"), blobs.list()):
            with pytest.raises(BlobsLost):
                await call

    async def test_a_slow_server_is_not_waited_for(self, s3_server: S3Server) -> None:
        """A call ends at its deadline, before the answer and within it."""
        for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n"):
            async with answering(answer, hold=True) as endpoint:
                blobs = S3Blobs(bucket_of(s3_server, "x", endpoint=endpoint), deadline=0.3)
                for call in (blobs.put("a", b"x"), blobs.get("a"), blobs.list()):
                    with pytest.raises(BlobsLost):
                        await call

    async def test_a_truncated_answer_is_no_shorter_blob(self, s3_server: S3Server) -> None:
        """A body that breaks off is an error, never what came of it."""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nLast-Modified: Sun, 22 Nov 2026 12:00:00 GMT\r\n"
        async with answering(head + b'ETag: "e"\r\n\r\nhalf') as endpoint:
            blobs = S3Blobs(bucket_of(s3_server, "x", endpoint=endpoint), deadline=5)
            with pytest.raises(BlobsLost):
                await blobs.get("a")

    @pytest.mark.parametrize(
        ("status", "error"),
        [("400 Bad Request", BlobsRefused), ("404 Not Found", BlobsRefused), ("501 No", BlobsLost)],
    )
    async def test_what_a_server_says_is_told(
        self, s3_server: S3Server, status: str, error: type[LowtideError]
    ) -> None:
        """A no for good and a failure are told apart; a missing bucket is no missing blob."""
        body = b"<Error><Code>NoSuchBucket</Code></Error>" if status.startswith("404") else b"no"
        answer = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)
        async with answering(answer) as endpoint:
            blobs = S3Blobs(bucket_of(s3_server, "x", endpoint=endpoint), deadline=10)
            for call in (blobs.put("a", b"x"), blobs.get("a")):
                with pytest.raises(error):
                    await call

    @pytest.mark.parametrize(
        "address", ["s3://", "s3://A", "s3://b/../c", "s3://bb//c", "https://b", "s3://bb/ ", "s3://bb?x"]
    )
    def test_an_address_that_names_no_bucket_is_refused(self, address: str) -> None:
        """The operator is told at the start, and not by a request that goes elsewhere."""
        with pytest.raises(SetupError):
            read_bucket(address, key_id="k", secret="s")

    def test_who_has_no_bucket_pays_nothing(self) -> None:
        """The library for buckets is not loaded by a server that uses none."""
        check = "import sys, lowtide.app; sys.exit('obstore' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0

    def test_a_bucket_without_a_key_is_refused(self) -> None:
        """No request is sent with what the machine's environment happens to hold; a secret is never shown."""
        with pytest.raises(SetupError):
            read_bucket("s3://bucket")
        with pytest.raises(SetupError):
            read_bucket("s3://bucket", endpoint="ftp://x", key_id="k", secret="s")
        assert "hidden" not in repr(read_bucket("s3://bucket", key_id="k", secret="hidden"))


@asynccontextmanager
async def answering(answer: bytes, *, hold: bool = False) -> AsyncIterator[str]:
    """A server that gives every request the same answer, and then closes; ``hold``: goes on for ever."""
    opened: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.add(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        assert KEY_ID.encode() in head
        writer.write(answer)
        await writer.drain()
        if hold:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in opened:
            writer.close()
