"""Write numbers with their units."""


def format_bytes(count: float) -> str:
    """Return a size in decimal units: 1500 -> "1.5 kB"."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.0f} {units[0]}" if count >= 100 else f"{count:.3g} {units[0]}"
