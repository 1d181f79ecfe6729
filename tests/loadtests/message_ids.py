"""Message ids for the tests of the delivery record."""


def id_of(offset: int | None, history: str = "u") -> str | None:
    """Return the id at *offset*, with a uid that no other offset and no other history has."""
    return None if offset is None else f"{offset}-{history}{offset}"
