"""The tables of version 1, which only databases made by the first penstock have."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """There is no way here: new tables are made of the newest version."""
