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


def keep(out: str, recordings: pa.Table) -> pa.Table:
    """Bring `out/manifest.parquet` up to date, and return the recordings with its types: what was words stays words,
    also in a night whose CSV has nothing but numbers there. UsageError where they do not fit, or `out` cannot be
    written to."""
    place = storage.join(out, NAME)
    try:
        known = parquet.read_table(io.BytesIO(storage.read(place))) if storage.stat(place) else recordings.slice(0, 0)
        for position, field in enumerate(recordings.schema):
            if field.name in known.schema.names and known.schema.field(field.name).type == pa.string():
                recordings = recordings.set_column(position, field.name, recordings[field.name].cast(pa.string()))
        pa.unify_schemas([known.schema, recordings.schema], promote_options="permissive")  # as those of their scores
        others = known.filter(pc.invert(pc.is_in(known["recording_id"], recordings["recording_id"])))
        table = pa.concat_tables([recordings, others], promote_options="permissive") if len(others) else recordings
        if not (len(known) and table.equals(known)):
            write_table(place, table)
        return recordings
    except pa.ArrowException as error:
        raise UsageError(f"{place} does not fit these recordings ({error}): give another --out") from None
    except OSError as error:
        raise UsageError(f"cannot write to --out {out}: {error.strerror or error}") from None
