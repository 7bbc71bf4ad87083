"""S3 as this project needs it: each request, with the whole body of its answer, is tried until it succeeds.

Only this module knows s3fs and what lies below it; ``dcgan_core.storage`` imports it when it must.
Retries live here and nowhere else: s3fs and botocore try once, as layers of retries multiply.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem
from s3fs.errors import translate_boto_error
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from dcgan_core.errors import ConfigError, DcganError, StorageError

PART_BYTES = 32 * 2**20
"""Files of twice this size or more are sent in parts of it; S3 takes no smaller parts than 5 MiB."""
DELETED_AT_ONCE = 1000
"""Most keys that S3 takes in one request to delete them."""
_MOST_PARTS = 10_000
_PARTS_AT_ONCE = 4
_LONGEST_PAUSE_SECONDS = 20.0
_MAY_PASS_CODES = {
    "BadDigest",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentSHA256Mismatch",
}
_MAY_PASS_ERRORS = (
    HTTPClientError,
    NoConnection,
    IncompleteReadError,
    FlexibleChecksumError,
    ResponseParserError,
    CredentialRetrievalError,
    aiohttp.ClientError,
    ConnectionError,
    TimeoutError,
)


class S3(S3FileSystem):
    """s3fs with retries of our own, bodies checked for their length, and nothing remembered of listings.

    A failure that may pass and does not is a StorageError; a missing bucket and missing credentials are a
    ConfigError. Neither is an OSError, which s3fs here and there takes for "not there".
    """

    retries = 1

    def __init__(
        self,
        *args: Any,
        tries: int = 8,
        pause_seconds: float = 0.5,
        connect_seconds: float = 5,
        read_seconds: float = 30,
        **kwargs: Any,
    ) -> None:
        self.tries, self.pause_seconds = tries, pause_seconds
        config = {
            "connect_timeout": connect_seconds,
            "read_timeout": read_seconds,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            **kwargs.pop("config_kwargs", {}),
        }
        # Other processes write here too: a listing is true only when it is made.
        super().__init__(*args, config_kwargs=config, **{**kwargs, "use_listings_cache": False})

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.tries),
            wait=wait_random_exponential(multiplier=self.pause_seconds, max=_LONGEST_PAUSE_SECONDS),
            retry=retry_if_exception(may_pass),
            reraise=True,
        )
        attempt = 0

        async def once() -> Any:
            nonlocal attempt
            attempt += 1
            return await self._once(method, attempt, *akwarglist, **kwargs)

        try:
            return await retrying(once)
        except DcganError:
            raise
        except Exception as error:
            named = _named(error, _where(kwargs), f"{method} failed {attempt} times")
            if named is error:
                raise
            raise named from error

    async def _once(self, method: str, attempt: int, *akwarglist: Any, **kwargs: Any) -> Any:
        try:
            answer = await super()._call_s3(method, *akwarglist, **kwargs)
        except FileNotFoundError:
            # The answer to an earlier try may have been lost after all was done.
            if method == "complete_multipart_upload" and attempt > 1:
                return await self._completed(**kwargs)
            if "UploadId" in kwargs and method != "abort_multipart_upload":
                raise StorageError(f"{_where(kwargs)}: somebody ended this upload; run it again") from None
            raise
        if method == "get_object":
            answer["Body"] = Body(await _whole_body(answer, kwargs.get("Range")))
        if method == "delete_objects" and (failed := _not_deleted(answer)):
            raise translate_boto_error(ClientError({"Error": failed}, "DeleteObjects"))
        return answer

    call_s3 = sync_wrapper(_call_s3)

    async def _completed(
        self, Bucket: str, Key: str, MultipartUpload: dict[str, Any], **_: Any
    ) -> dict[str, Any]:
        """What completing an upload would have answered, if the object is the one made of these parts."""
        there = await self._call_s3("head_object", Bucket=Bucket, Key=Key)
        tags = [part["ETag"].strip('"') for part in MultipartUpload["Parts"]]
        if there["ETag"].strip('"') != _tag_of_parts(tags):
            raise StorageError(
                f"s3://{Bucket}/{Key}: the upload was lost before it was complete; run it again"
            )
        return {"Bucket": Bucket, "Key": Key, "ETag": there["ETag"]}

    async def _exists(self, path: str) -> bool:
        try:
            await self._info(path)
        except FileNotFoundError:
            return False
        return True

    exists = sync_wrapper(_exists)

    async def _isfile(self, path: str) -> bool:
        try:
            return (await self._info(path))["type"] == "file"
        except FileNotFoundError:
            return False

    async def _cat_file(
        self,
        path: str,
        version_id: str | None = None,
        start: int | None = None,
        end: int | None = None,
        *_: Any,
        **__: Any,
    ) -> bytes:
        if start is not None and start == end:
            return b""
        bucket, key, version = self.split_path(path)
        options = {}
        if start is not None or end is not None:
            options["Range"] = await self._process_limits(path, start, end)
        if version_id or version:
            options["VersionId"] = version_id or version
        try:
            answer = await self._call_s3("get_object", Bucket=bucket, Key=key, **options)
        except OSError as error:
            if _code(error) == "InvalidRange":  # it begins behind the end, where there is nothing
                return b""
            raise
        return await answer["Body"].read()

    async def _pipe_file(self, path: str, data: bytes, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs.get("mode", "overwrite") != "overwrite" or len(data) < 2 * PART_BYTES:
            return await super()._pipe_file(path, data, *args, **kwargs)
        return await self._upload(path, len(data), lambda start, end: data[start:end])

    async def _put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        size = Path(lpath).stat().st_size
        if args or kwargs.get("mode", "overwrite") != "overwrite" or size < 2 * PART_BYTES:
            await super()._put_file(lpath, rpath, *args, **kwargs)
            return

        def piece(start: int, end: int) -> bytes:
            with Path(lpath).open("rb") as file:
                file.seek(start)
                return file.read(end - start)

        await self._upload(rpath, size, piece)

    async def _upload(self, path: str, size: int, piece: Callable[[int, int], bytes]) -> None:
        bucket, key, _ = self.split_path(path)

        async def send(upload: dict[str, Any], start: int, end: int) -> str:
            return (await self._call_s3("upload_part", Body=piece(start, end), **upload))["ETag"]

        await self._in_parts(bucket, key, _ranges(size, PART_BYTES), send)

    async def _copy_managed(
        self, path1: str, path2: str, size: int, block: int = 128 * 2**20, **kwargs: Any
    ) -> None:
        bucket, key, _ = self.split_path(path2)
        source = self._strip_protocol(path1)

        async def send(upload: dict[str, Any], start: int, end: int) -> str:
            span = f"bytes={start}-{end - 1}"
            answer = await self._call_s3(
                "upload_part_copy", CopySource=source, CopySourceRange=span, **upload
            )
            return answer["CopyPartResult"]["ETag"]

        await self._in_parts(bucket, key, _ranges(size, block), send)

    async def _in_parts(
        self,
        bucket: str,
        key: str,
        ranges: Sequence[tuple[int, int]],
        send: Callable[[dict[str, Any], int, int], Awaitable[str]],
    ) -> None:
        """Make an object of parts, a few at a time; nothing of them is left where one fails for good."""
        made = await self._call_s3("create_multipart_upload", Bucket=bucket, Key=key)
        upload = {"Bucket": bucket, "Key": key, "UploadId": made["UploadId"]}
        gate = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def part(number: int, start: int, end: int) -> dict[str, Any]:
            async with gate:
                tag = await send({**upload, "PartNumber": number}, start, end)
            return {"PartNumber": number, "ETag": tag}

        tasks = [asyncio.ensure_future(part(i, *span)) for i, span in enumerate(ranges, start=1)]
        try:
            parts = await asyncio.gather(*tasks)
            await self._call_s3("complete_multipart_upload", MultipartUpload={"Parts": parts}, **upload)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # a part sent after the end would stay
            await self._abort_mpu(bucket, key, made["UploadId"])
            raise

    async def _abort_mpu(self, bucket: str, key: str, mpu: str) -> None:
        with suppress(FileNotFoundError, StorageError):  # the failure that led here says more
            await super()._abort_mpu(bucket, key, mpu)

    abort_mpu = sync_wrapper(_abort_mpu)

    async def _rm(self, path: str | list[str], recursive: bool = False, **kwargs: Any) -> None:
        """Delete objects, and with ``recursive`` what is below them; some may be gone already."""
        named = [path] if isinstance(path, str) else path
        paths = [str(self._strip_protocol(each)) for each in named]
        below = [
            info["name"] for each in paths if recursive for info in await self._lsdir(each, delimiter="")
        ]
        keys = sorted({*paths, *below})
        for start in range(0, len(keys), DELETED_AT_ONCE):
            await self._bulk_delete(keys[start : start + DELETED_AT_ONCE])


class Body:
    """A body that was read whole, as s3fs reads bodies."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    async def read(self, amt: int | None = None) -> bytes:
        return self._stream.read(amt)

    def close(self) -> None:
        self._stream.close()


def may_pass(error: BaseException) -> bool:
    """Whether asking again may help; s3fs hides the client's own error behind an OSError of its choice."""
    client = _client_error(error)
    if isinstance(error, DcganError) or client is None:
        return isinstance(error, _MAY_PASS_ERRORS)
    status = client.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(client.response.get("Error", {}).get("Code"))
    return code in _MAY_PASS_CODES or status in (408, 429) or (status >= 500 and status != 501)


def _named(error: Exception, where: str, failed: str) -> Exception:
    """The error to raise for one of the client's: with a next step where it is not one of s3fs'."""
    if _code(error) in ("NoSuchBucket", "InvalidBucketName"):
        return ConfigError(
            f"{where}: there is no such bucket on this store; make it, or correct DCGAN_ROOT, the source's "
            "path or DCGAN_S3_ENDPOINT_URL"
        )
    if may_pass(error):
        return StorageError(
            f"{where}: {failed}, at last: {_said(error)}; run it again when the store is well, or check "
            "DCGAN_S3_ENDPOINT_URL"
        )
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return ConfigError(f"{where}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if isinstance(error, (BotoCoreError, ValueError)):
        return ConfigError(f"{where}: {error}; check DCGAN_ROOT, DCGAN_S3_ENDPOINT_URL and AWS_* variables")
    return error


async def _whole_body(answer: dict[str, Any], span: str | None) -> bytes:
    stream = answer["Body"]
    try:
        data = await stream.read()
    finally:
        stream.close()
    wanted = answer.get("ContentLength")
    # Something between may have shortened the body and announced it so; the range tells it.
    first, _, last = (span or "").removeprefix("bytes=").partition("-")
    total = str(answer.get("ContentRange", "")).rpartition("/")[2]
    if first.isdigit() and last.isdigit() and total.isdigit():
        wanted = min(int(last) + 1, int(total)) - int(first)
    if wanted is not None and len(data) != wanted:
        raise IncompleteReadError(actual_bytes=len(data), expected_bytes=wanted)
    return data


def _not_deleted(answer: dict[str, Any]) -> dict[str, Any] | None:
    return next((each for each in answer.get("Errors", []) if each.get("Code") != "NoSuchKey"), None)


def _tag_of_parts(tags: Sequence[str]) -> str:
    """The ETag that S3 gives an object of parts."""
    try:
        joined = b"".join(bytes.fromhex(tag) for tag in tags)
    except ValueError:
        return ""
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(tags)}"


def _ranges(size: int, part: int) -> list[tuple[int, int]]:
    part = max(part, math.ceil(size / _MOST_PARTS))
    return [(start, min(start + part, size)) for start in range(0, size, part)]


def _client_error(error: BaseException) -> ClientError | None:
    for each in (error, error.__cause__):
        if isinstance(each, ClientError):
            return each
    return None


def _code(error: BaseException) -> str:
    client = _client_error(error)
    return str(client.response.get("Error", {}).get("Code")) if client else ""


def _said(error: BaseException) -> str:
    said: BaseException = _client_error(error) or error
    return str(said) or type(said).__name__


def _where(kwargs: dict[str, Any]) -> str:
    return f"s3://{kwargs.get('Bucket', '')}/{kwargs.get('Key', kwargs.get('Prefix', ''))}"
