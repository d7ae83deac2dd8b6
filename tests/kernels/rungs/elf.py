"""The symbols of a library, read from the file itself: a machine may have no binutils."""

import struct
from pathlib import Path

SYMBOL_TABLE = 2
SYMBOL_BYTES = 24


def symbols(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of all that a 64-bit library defines, by the names that the compiler gave."""
    data = path.read_bytes()
    (headers,) = struct.unpack_from("<Q", data, 40)
    entry_bytes, entries = struct.unpack_from("<HH", data, 58)
    sections = [
        struct.unpack_from("<IIQQQQII", data, headers + number * entry_bytes)
        for number in range(entries)
    ]
    found = {}
    for _, kind, _, _, offset, size, names, _ in sections:
        if kind == SYMBOL_TABLE:
            for at in range(offset, offset + size, SYMBOL_BYTES):
                name, _, _, section, value, length = struct.unpack_from("<IBBHQQ", data, at)
                if section:  # else another library defines it
                    begin = sections[names][4] + name
                    text = data[begin : data.index(b"\0", begin)].decode()
                    found[text] = value, length
    return found
