"""Blobs in a bucket of an S3-compatible storage, through ``obstore``, which is loaded by the first call."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lowtide.kernel.errors import BlobExists, BlobsLost, BlobsRefused, Busy, NotFound, SetupError, TooLarge
from lowtide.storage.blobs.model import (
    AT_ONCE,
    DEADLINE,
    MAX_BLOB,
    MAX_LIST,
    Blob,
    check_folder,
    check_key,
    check_range,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Store

SCHEME = "s3://"
RETRIES = 2
"""Of a request that did not get through, with growing random pauses, within the call's deadline."""
_ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9_=][A-Za-z0-9_.=-]{0,199})*)/?")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9._/-]*)?")


class S3Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket, a prefix of all keys in it, and how to get in. An empty ``endpoint`` is that of AWS."""

    name: str
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    key_id: str
    secret: str
    ca_file: str = ""
    """PEM certificates that are trusted besides the system's."""

    def __repr__(self) -> str:
        return f"Bucket(name={self.name!r}, prefix={self.prefix!r}, endpoint={self.endpoint!r})"


def read_bucket(
    address: str,
    *,
    endpoint: str = "",
    region: str = "",
    key_id: str = "",
    secret: str = "",
    ca_file: str = "",
) -> S3Bucket:
    """The bucket that ``s3://bucket/prefix`` names. ``SetupError`` for another address or a missing key."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise SetupError(f"'{address}' names no bucket.", hint="Write s3://bucket or s3://bucket/prefix.")
    if endpoint and _ENDPOINT.fullmatch(endpoint) is None:
        raise SetupError(f"'s3_endpoint' is '{endpoint}'.", hint="Write https://s3.example.com.")
    if not (key_id and secret):
        raise SetupError(
            f"The key for {address} is missing.", hint="Set 's3_key_id' and 's3_secret' (LOWTIDE_S3_SECRET)."
        )
    return S3Bucket(
        name=found[1],
        prefix=found[2].strip("/"),
        endpoint=endpoint.rstrip("/"),
        region=region or "us-east-1",
        key_id=key_id,
        secret=secret,
        ca_file=ca_file,
    )


class S3Blobs:
    """``Blobs`` in a bucket. Nothing is asked, and no library loaded, before the first call.

    The storage must know conditional writes (``If-None-Match: *``), as AWS, MinIO, Ceph, R2 and SeaweedFS do.
    """

    def __init__(self, bucket: S3Bucket, *, deadline: float = DEADLINE):
        self._bucket = bucket
        self._deadline = deadline
        self._opening = asyncio.Lock()
        self._store: S3Store | None = None
        self._running = 0
        self._closed = False

    @property
    def address(self) -> str:
        """``s3://bucket/prefix``."""
        return SCHEME + "/".join(part for part in (self._bucket.name, self._bucket.prefix) if part)

    async def put(self, key: str, content: bytes, *, create: bool = False) -> None:
        """As ``Blobs.put``. One request."""
        check_key(key)
        if len(content) > MAX_BLOB:
            raise TooLarge(f"A blob of {len(content)} bytes is too large.", limit=MAX_BLOB)
        async with self._asking(key) as (api, store):
            mode = "create" if create else "overwrite"
            await api.put_async(store, key, content, mode=mode, use_multipart=False)

    async def get(
        self, key: str, *, first: int = 0, length: int | None = None, limit: int = MAX_BLOB
    ) -> bytes:
        """As ``Blobs.get``. One request."""
        check_key(key)
        check_range(first, length, limit)
        if length == 0:
            return b""
        options: dict[str, Any] = {}
        if length is not None:
            options = {"range": (first, first + length)}
        elif first:
            options = {"range": {"offset": first}}
        async with self._asking(key) as (api, store):
            try:
                answer = await api.get_async(store, key, options=options)
            except Exception as error:
                if options and _status(error) == 416:
                    return b""  # it ends before
                raise
            begin, end = answer.range
            if end - begin > limit:
                raise TooLarge(f"'{key}' has {end - begin} bytes.", limit=limit)
            found = bytearray()
            async for chunk in answer.stream(min_chunk_size=1024 * 1024):
                found += chunk
                if len(found) > limit:
                    break
            if len(found) != end - begin:
                raise BlobsLost(f"{self.address}/{key} broke off.")
            return bytes(found)

    async def head(self, key: str) -> Blob | None:
        """As ``Blobs.head``. One request."""
        check_key(key)
        with suppress(NotFound):
            async with self._asking(key) as (api, store):
                return _blob(await api.head_async(store, key))
        return None

    async def delete(self, key: str) -> None:
        """As ``Blobs.delete``. One request."""
        check_key(key)
        with suppress(NotFound):
            async with self._asking(key) as (api, store):
                await api.delete_async(store, key)

    async def list(self, folder: str = "", after: str = "", limit: int = MAX_LIST) -> list[Blob]:
        """As ``Blobs.list``. One request for a page."""
        check_folder(folder)
        if not 1 <= limit <= MAX_LIST:
            raise ValueError("a page has 1 to 1,000 blobs")
        found: list[Blob] = []
        async with self._asking(folder) as (api, store):
            pages = api.list(store, prefix=folder or None, offset=after or None, chunk_size=limit)
            async for page in pages:
                found += [_blob(one) for one in page]
                if len(found) >= limit:
                    break
        return found[:limit]

    async def close(self) -> None:
        """Forget the connections."""
        self._closed, self._store = True, None

    @asynccontextmanager
    async def _asking(self, key: str) -> AsyncIterator[tuple[Any, S3Store]]:
        if self._closed:
            raise BlobsLost("The blob storage is closed.")
        if self._running >= AT_ONCE:
            raise Busy("Too many blobs are being read and written.")
        self._running += 1
        try:
            async with asyncio.timeout(self._deadline):
                api, store = await self._opened()
                yield api, store
        except TimeoutError:
            raise BlobsLost(f"{self.address} did not answer in time.") from None
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__ != "obstore.exceptions":
                raise
            raise self._told(error, key) from error
        finally:
            self._running -= 1

    async def _opened(self) -> tuple[Any, S3Store]:
        async with self._opening:
            if self._store is None:
                self._store = await asyncio.to_thread(self._open)
        import obstore

        return obstore, self._store

    def _open(self) -> S3Store:
        from obstore.store import S3Store

        bucket, seconds = self._bucket, timedelta(seconds=self._deadline)
        client: ClientConfig = {
            "allow_http": bucket.endpoint.startswith("http://"),
            "timeout": seconds,
            "connect_timeout": min(seconds, timedelta(seconds=5)),
        }
        if bucket.ca_file:
            try:
                client["root_certificate"] = Path(bucket.ca_file).read_bytes()
            except OSError as error:
                raise SetupError(f"{bucket.ca_file} cannot be read: {error.strerror}.") from error
        return S3Store(
            bucket.name,
            prefix=bucket.prefix or None,
            config={
                "access_key_id": bucket.key_id,
                "secret_access_key": bucket.secret,
                "region": bucket.region,
                # The path names the bucket at an endpoint of one's own, the host at AWS.
                "virtual_hosted_style_request": not bucket.endpoint,
                **({"endpoint": bucket.endpoint} if bucket.endpoint else {}),
            },
            client_options=client,
            retry_config={"max_retries": RETRIES, "retry_timeout": seconds},
        )

    def _told(self, error: Exception, key: str) -> Exception:
        text, name, status = _line(error), type(error).__name__, _status(error)
        if name == "AlreadyExistsError":
            return BlobExists(f"There is a blob '{key}' in {self.address} already.")
        if "NoSuchBucket" in str(error):
            return BlobsRefused(f"There is no bucket {self._bucket.name}.", hint="Make it, or mend its name.")
        if isinstance(error, FileNotFoundError) or name == "NotFoundError":
            return NotFound(f"There is no blob '{key}' in {self.address}.", hint="Look at the key.")
        if name in ("PermissionDeniedError", "UnauthenticatedError") or 400 <= status < 500:
            return BlobsRefused(f"{self.address} refuses '{key}': {text}")
        return BlobsLost(f"{self.address} does not answer: {text}")


def _blob(meta: Any) -> Blob:
    return Blob(meta["path"], meta["size"], int(meta["last_modified"].timestamp() * 1000))


def _status(error: Exception) -> int:
    found = re.search(r"non-2xx status code: (\d{3})", str(error))
    return int(found[1]) if found else 0


def _line(error: Exception) -> str:
    """What the storage says, in a few words."""
    code = re.search(r"<Code>(\w{1,60})</Code>", str(error))
    if code:
        return f"{code[1]} ({_status(error)})."
    line = str(error).split("\n", 1)[0]
    return line.partition(" - ")[2][:200].strip() or line[:200]
