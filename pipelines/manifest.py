"""What a run was asked for, as `DIR/manifest.parquet`: a manifest that `sqllm score` takes as SOURCE, without listing.

It grows: recordings that an earlier run was asked for, and this one was not, stay in it.
"""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from pipelines.sink import write_table
from sqllm import storage
from sqllm.errors import UsageError

NAME = "manifest.parquet"


def keep(out: str, recordings: pa.Table) -> None:
    """Bring `out/manifest.parquet` up to date. UsageError where `out` cannot be written to."""
    place = storage.join(out, NAME)
    try:
        known = parquet.read_table(io.BytesIO(storage.read(place))) if storage.stat(place) else recordings.slice(0, 0)
        others = known.filter(pc.invert(pc.is_in(known["recording_id"], recordings["recording_id"])))
        table = pa.concat_tables([recordings, others], promote_options="permissive") if len(others) else recordings
        if not (len(known) and table.equals(known)):
            write_table(place, table)
    except pa.ArrowException as error:
        raise UsageError(f"{place} does not fit these recordings ({error}): give another --out") from None
    except OSError as error:
        raise UsageError(f"cannot write to --out {out}: {error.strerror or error}") from None
