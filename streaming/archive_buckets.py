"""The file system of an archive's URI: opened and looked at, or refused with what to mend.

Endpoint, region and credentials are the environment's, by the names that every client of S3 reads:
AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role.
"""

import os
import re
from typing import Final

import pyarrow as pa
from pyarrow import fs

from features.errors import HeadraceError, Refused, Unavailable

_WHERE: Final = "`archive=` of events_source in the feature repository, or --archive"
_ABSENT: Final = re.compile(r"NO_SUCH_BUCKET|Bucket '[^']*' not found")
_DENIED: Final = re.compile(
    r"ACCESS_DENIED|ACCESS_KEY|SIGNATURE|EXPIRED_TOKEN|TOKEN_REFRESH|HTTP status 40[13]"
)
_ELSEWHERE: Final = re.compile(r"HTTP status 30[17]")
_AWAY: Final = re.compile(r"NETWORK_CONNECTION|curlCode|SLOW_DOWN|SERVICE_UNAVAILABLE")


def opened(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI, and the path in it.

    Raises Refused for a URI that is none, a bucket that is not there and one that we may not
    use; Unavailable where nobody answers.
    """
    try:
        store, path = fs.FileSystem.from_uri(uri)
        bucket = path.partition("/")[0]
        there = not isinstance(store, fs.S3FileSystem) or _is_there(store, bucket)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Refused(
            f"the archive {uri!r} is neither a folder nor s3://bucket/path: {error}; mend {_WHERE}"
        ) from error
    except OSError as error:
        raise _judged(uri, error) from error
    if not there:
        raise Refused(f"the archive {uri!r} cannot be used: {_absent(bucket)}")
    return store, path


def mend(error: OSError) -> str | None:
    """What somebody can do about an error of S3; None for what only waiting mends."""
    said = str(error)
    if _ABSENT.search(said):
        return f"create the bucket, or mend {_WHERE}"
    if _DENIED.search(said):
        return (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE, or a role) to what "
            "may s3:ListBucket there, and s3:GetObject, s3:PutObject and s3:DeleteObject in it"
        )
    if _ELSEWHERE.search(said):
        return "the bucket is in another region: set AWS_REGION"
    if _AWAY.search(said):
        return f"see whether S3 answers at {_endpoint()}"
    return None


def _is_there(store: fs.S3FileSystem, bucket: str) -> bool:
    found = store.get_file_info(bucket).type != fs.FileType.NotFound
    if found:  # to look at a bucket is not to be allowed to list it
        store.get_file_info(fs.FileSelector(f"{bucket}/.headrace-looks", allow_not_found=True))
    return bool(found)


def _judged(uri: str, error: OSError) -> HeadraceError:
    says, said = mend(error), str(error)
    what = f"the archive {uri!r} cannot be used: {said}"
    if says is None or _AWAY.search(said):
        return Unavailable(f"{what}; {says or f'it was asked for at {_endpoint()}'}")
    return Refused(f"{what}; {says}")


def _absent(bucket: str) -> str:
    return f"there is no bucket {bucket!r} at {_endpoint()}; create it, or mend {_WHERE}"


def _endpoint() -> str:
    """Where S3 is asked."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if os.environ.get(name):
            return f"{os.environ[name]} ({name})"
    return "AWS (AWS_ENDPOINT_URL names another server)"
