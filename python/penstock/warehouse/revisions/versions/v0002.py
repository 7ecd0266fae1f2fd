"""A load can be found again by its id, and says which days it has touched."""

from alembic import context, op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Run the files `migrations/0002*.sql`, or write them out."""
    given = context.config.attributes
    run = op.get_context().impl.static_output if context.is_offline_mode() else given["run"]
    for sql in given["statements"].get(2, []):
        run(sql)
