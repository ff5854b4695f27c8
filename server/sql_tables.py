"""The tables of the SQL state."""

from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Float,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    text,
)
from sqlalchemy.schema import CreateColumn

from server.sql_database import SqlDatabase

metadata = MetaData()


def _evaluation() -> list[Column]:  # type: ignore[type-arg]
    return [Column("accuracy", Float), Column("loss", Float), Column("examples", Integer)]


runs = Table(
    "runs",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("bundle_id", String(64), nullable=False),
    Column("bundle_folder", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("trainable_parameters", BigInteger, nullable=False),
    Column("evaluation_file", Text),
    Column("options", Text, nullable=False),
    Column("adapter", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    *_evaluation(),
    Column("bundle_signature", String(128)),
)

rounds = Table(
    "rounds",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("base_adapter", String(64), nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("deadline", Float),
    Column("closed_at", Float),
    Column("adapter", String(64)),
    *_evaluation(),
    Column("head_bound", Float),
    Column("saved_bound", Float),
    Column("optimizer_memory", String(64)),
    ForeignKeyConstraint(["run_id"], ["runs.run_id"]),
)

devices = Table(
    "devices",
    metadata,
    Column("device_id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("last_seen", Float, nullable=False),
    Column("cores", Integer, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("machine", Text, nullable=False),
    Column("software", Text, nullable=False),
    Column("head_budget", Float, nullable=False),
    Column("bytes_down", BigInteger, nullable=False),
    Column("failure", Text, nullable=False),
)

assignments = Table(
    "assignments",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("device_id", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("bytes_down", BigInteger, nullable=False),
    Column("bytes_up", BigInteger, nullable=False),
    Column("sha256", String(64)),
    Column("local_examples", BigInteger, nullable=False),
    Column("local_steps", BigInteger, nullable=False),
    Column("local_first_loss", Float, nullable=False),
    Column("local_last_loss", Float, nullable=False),
    Column("local_seconds", Float, nullable=False),
    Column("local_heads_per_layer", Integer, nullable=False),
    Column("failure", Text, nullable=False),
    Column("head_norm", Float),
    Column("saved_norm", Float),
    Column("sequence", BigInteger),
    Column("folded_in", Integer),
    Column("head_budget", Float),
    ForeignKeyConstraint(["run_id", "round"], ["rounds.run_id", "rounds.number"]),
    ForeignKeyConstraint(["device_id"], ["devices.device_id"]),
)

holders = Table(
    "holders",
    metadata,
    Column("device_id", String(64), primary_key=True),
    Column("public_key", String(64), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("enrolled_at", Float, nullable=False),
    Column("revoked_at", Float),
    Column("left_at", Float),
)

tokens = Table(
    "tokens",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("expires_at", Float, nullable=False),
    Column("device_id", String(64)),
)

releases = Table(
    "releases",
    metadata,
    Column("machine", String(24), primary_key=True),
    Column("version", String(40), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("tree", String(64), nullable=False),
    Column("unpacked", BigInteger, nullable=False),
    Column("signature", String(128), nullable=False),
)

nonces = Table(
    "nonces",
    metadata,
    Column("nonce", String(32), primary_key=True),
    Column("public_key", String(64), primary_key=True),
    Column("expires_at", Float, nullable=False, index=True),
)


def create_tables(engine: Engine, wanted: MetaData) -> None:
    """Makes what is missing: tables, and columns that came since the database was made, which may all be null."""
    database = SqlDatabase(engine)
    with database.transaction() as db:
        database.alone(db, "create tables")
        wanted.create_all(db)
        for table in wanted.sorted_tables:
            present = {column["name"] for column in inspect(db).get_columns(table.name)}
            for column in table.columns:
                if column.name not in present:
                    db.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {CreateColumn(column).compile(engine)}"))
