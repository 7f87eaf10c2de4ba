"""How much memory an Avro record would take when it is read, found out without reading it.

A few bytes can stand for a large object: 16 MiB of empty texts would become 1.5 GB of mappings. So before a large
record is read, its lengths and counts are walked over with the writer's schema, one step per item, until the record
ends or weighs too much. Rule: nothing but counting here.
"""

from typing import Any

#: The most a record may weigh: every frame a connector may close weighs less (100,000 readings, each with a text).
WEIGHT_MAX_BYTES = 40 * 1024 * 1024
#: Records up to this size need no walk: nothing that small can weigh too much.
UNWEIGHED_BYTES = 64 * 1024

_TEXT, _BYTES, _NUMBER, _ITEM, _ENTRY, _RECORD, _FIELD = 50, 33, 32, 8, 100, 64, 24
_FIXED = {"double": 8, "float": 4, "boolean": 1, "null": 0}


class Absurd(ValueError):
    """Bytes that claim to be longer than they are, or a record that is too heavy. The message says which."""


class Walk:
    """One walk over a body: `at` is the next byte, `weight` what the record would take so far, in bytes."""

    def __init__(self, data: bytes, at: int, weight_max: int = WEIGHT_MAX_BYTES) -> None:
        self._data = data
        self._named: dict[str, Any] = {}
        self._weight_max = weight_max
        self.at = at
        self.weight = 0

    def over(self, schema: Any) -> None:
        """Walk over one item of a parsed schema. Raises Absurd."""
        if isinstance(schema, list):
            branch = self._long()
            if not 0 <= branch < len(schema):
                raise Absurd(f"branch {branch} of a union, allowed is 0…{len(schema) - 1}")
            self.over(schema[branch])
        elif isinstance(schema, dict) and schema["type"] in ("record", "enum"):
            self._named[schema["name"]] = schema
            self._record(schema)
        elif isinstance(schema, dict) and schema["type"] in ("array", "map"):
            self._items(schema)
        elif isinstance(schema, dict):
            self.over(schema["type"])
        elif schema in self._named:
            self._record(self._named[schema])
        else:
            self._plain(schema)

    def _record(self, schema: Any) -> None:
        if schema["type"] == "enum":
            self._long()
            return
        self._weigh(_RECORD + _FIELD * len(schema["fields"]))
        for field in schema["fields"]:
            self.over(field["type"])

    def _items(self, schema: Any) -> None:
        is_map = schema["type"] == "map"
        inner, each = (schema["values"], _ENTRY) if is_map else (schema["items"], _ITEM)
        while count := self._long():
            if count < 0:
                count = -count
                self._long()  # the size of the block in bytes
            if count > len(self._data) - self.at:
                raise Absurd(f"{count} items are claimed, {len(self._data) - self.at} bytes are left")
            for _ in range(count):
                self._weigh(each)
                if is_map:
                    self._plain("string")
                self.over(inner)

    def _plain(self, name: str) -> None:
        if name in ("string", "bytes"):
            length = self._long()
            if not 0 <= length <= len(self._data) - self.at:
                raise Absurd(f"a length of {length} is claimed, {len(self._data) - self.at} bytes are left")
            self.at += length
            self._weigh(length + (_TEXT if name == "string" else _BYTES))
        elif name in _FIXED:
            self.at += _FIXED[name]
            self._weigh(_NUMBER)
        else:  # int, long
            self._long()
            self._weigh(_NUMBER)

    def _long(self) -> int:
        """A zigzag integer of at most 10 bytes."""
        value = 0
        for shift in range(0, 70, 7):
            if self.at >= len(self._data):
                raise Absurd("it is cut short")
            byte = self._data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value >> 1 ^ -(value & 1)
        raise Absurd("an integer of more than 10 bytes")

    def _weigh(self, size_bytes: int) -> None:
        self.weight += size_bytes
        if self.weight > self._weight_max:
            raise Absurd(f"it would take more than the {self._weight_max} bytes of memory that a record may take")
