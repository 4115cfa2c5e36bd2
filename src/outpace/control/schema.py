"""The tables of control: what is wanted, and who may ask. Replicas are not here: the pool knows them."""

from sqlalchemy import BigInteger, Column, Double, Integer, MetaData, String, Table, Text

metadata = MetaData()

deployments = Table(
    "deployments",
    metadata,
    Column("name", String(96), primary_key=True),
    # The DeploymentSpec as JSON.
    Column("spec", Text, nullable=False),
    # Replicas that a person asked for with `outpace scale`; NULL: as many as the load needs.
    Column("pinned", Integer),
    Column("created_at", Double, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("prefix", String(32), nullable=False),
    Column("slot", Integer, nullable=False, unique=True),
    # JSON arrays.
    Column("scopes", Text, nullable=False),
    Column("models", Text),
    Column("rpm", BigInteger),
    Column("tpm", BigInteger),
    Column("budget_pusd", BigInteger),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
)
