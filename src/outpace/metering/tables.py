"""The ledger's tables. Control's migrations create them; only the ledger and its reports use them."""

import sqlalchemy as sa

metadata = sa.MetaData()
# Execution option of transactions that only read; control's database begins those without the write lock.
READS_ONLY = "outpace_reads_only"
# In `spend.boot_id`: the sum of all retired journals.
RETIRED = ""

# One row per request that ended, with the fields of its Reserved and its Settled record.
receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("boot_id", sa.Text, nullable=False),
    sa.Column("reserved_at_s", sa.Double),
    sa.Column("settled_at_s", sa.Double, nullable=False),
    # Empty when the record that named it was damaged.
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("slot", sa.Integer),
    sa.Column("deployment", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("engine", sa.Text, nullable=False),
    sa.Column("replica", sa.Text),
    sa.Column("stream", sa.Boolean, nullable=False),
    sa.Column("reserved_pusd", sa.BigInteger, nullable=False),
    # JSON of values.money.Price; NULL: unpriced.
    sa.Column("price", sa.Text),
    sa.Column("client_request_id", sa.Text),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    # JSON of values.usage.Usage.
    sa.Column("usage", sa.Text, nullable=False),
    sa.Column("cost_pusd", sa.BigInteger),
    sa.Column("finish_reason", sa.Text),
    sa.Column("error_code", sa.Text),
    sa.Column("queue_s", sa.Double),
    sa.Column("ttft_s", sa.Double),
    sa.Column("duration_s", sa.Double, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("num_choices", sa.Integer, nullable=False),
    # JSON of values.records.Serving; NULL: not recorded.
    sa.Column("serving", sa.Text),
    sa.Index("receipts_by_time", "settled_at_s"),
    sa.Index("receipts_by_key", "key_id", "settled_at_s"),
)

# One row per unit, so that a new modality brings rows, not columns. `cost_pusd` is a unit too.
usage = sa.Table(
    "usage",
    metadata,
    # UTC day of settlement, YYYY-MM-DD.
    sa.Column("day", sa.Text, primary_key=True),
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("deployment", sa.Text, primary_key=True),
    sa.Column("unit", sa.Text, primary_key=True),
    sa.Column("quantity", sa.BigInteger, nullable=False),
)

# Requests whose end is not known yet: their journal lines, until Reserved and Settled are both there.
open_requests = sa.Table(
    "open_requests",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("boot_id", sa.Text, nullable=False, index=True),
    sa.Column("reserved_pusd", sa.BigInteger, nullable=False),
    sa.Column("reserved", sa.Text),
    sa.Column("marked", sa.Text),
    sa.Column("settled", sa.Text),
)

# What each key has spent, per life of a worker and (boot_id '') in all retired ones; saturates at 2^63 - 1.
spend = sa.Table(
    "spend",
    metadata,
    sa.Column("boot_id", sa.Text, primary_key=True),
    sa.Column("key_id", sa.Text, primary_key=True),
    # Row of the counters; -1: none.
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("cost_pusd", sa.BigInteger, nullable=False),
)

journal_files = sa.Table(
    "journal_files",
    metadata,
    sa.Column("boot_id", sa.Text, primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("offset_bytes", sa.BigInteger, nullable=False),
    # Lines that were no records: skipped and logged.
    sa.Column("num_bad_lines", sa.Integer, nullable=False),
    sa.Column("ingested_at_s", sa.Double, nullable=False),
    sa.Column("retired_at_s", sa.Double),
)

# Requests turned away before any reservation. The model is left out: a caller can invent any number of them.
refusals = sa.Table(
    "refusals",
    metadata,
    sa.Column("day", sa.Text, primary_key=True),
    # Empty: no valid key.
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("status", sa.Integer, primary_key=True),
    sa.Column("code", sa.Text, primary_key=True),
    sa.Column("num_requests", sa.BigInteger, nullable=False),
)
