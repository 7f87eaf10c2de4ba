"""One InfluxQL query over HTTP, its answer as a DataFrame that is exact to the bit and the nanosecond.

Why InfluxQL and not Flux: it takes bound parameters (a tag name is data, never part of the query), gives one row per
point instead of one per field, and keeps the text of a field as it is, where Flux changes its line ends. Measured for
37,500 readings with all fields: 0.08 s against 0.48 s. Rule: knows HTTP and CSV, not what our measurements mean.
"""

import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

import pandas as pd

from runtime.config import Influxdb

Parameter = str | int | dict[str, str]

_DTYPES = {"float": "float64", "int": "Int64", "str": "str"}


class QueryError(RuntimeError):
    """A question that cannot be answered. The message says what is wrong with it, or what InfluxDB said."""


class InfluxQL:
    """A client of InfluxDB's InfluxQL end point; the bucket's name is the database (InfluxDB maps it by itself)."""

    def __init__(self, influxdb: Influxdb, timeout_s: float) -> None:
        self._url = f"{influxdb.address.rstrip('/')}/query"
        self._database = influxdb.bucket_name
        self._headers = {"Authorization": f"Token {influxdb.token}", "Accept": "application/csv"}
        self._timeout_s = timeout_s
        secure = ssl.create_default_context(cafile=influxdb.ca_file and str(influxdb.ca_file))
        # No proxy from the environment: the database is part of the system, not of the outside.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=secure)
        )

    def select(self, query: str, parameters: Mapping[str, Parameter], types: Mapping[str, str]) -> pd.DataFrame:
        """Rows of a query, `time` (int64, ns since 1970) first and then the columns that `types` names.

        `types` maps a column to "float", "int" or "str". An absent number is NaN or <NA>, an absent text "". Raises
        QueryError.
        """
        numbers = [name for name, kind in types.items() if kind != "str"]
        dtypes = {"time": "int64"} | {name: _DTYPES[kind] for name, kind in types.items()}
        table = self._table(query, parameters, dtypes, {name: [""] for name in numbers})
        for name, dtype in dtypes.items():
            if name not in table:
                table[name] = pd.Series(index=table.index, dtype=dtype)
        return table[list(dtypes)]

    def texts(self, query: str, parameters: Mapping[str, Parameter]) -> list[dict[str, str]]:
        """Rows of a query with every cell as InfluxDB wrote it, "" where there is nothing. Raises QueryError."""
        table = self._table(query, parameters, "str", {})
        return [{str(name): str(cell) for name, cell in row.items()} for row in table.to_dict("records")]

    def _table(
        self, query: str, parameters: Mapping[str, Parameter], dtypes: Any, absent: Mapping[str, list[str]]
    ) -> pd.DataFrame:
        form = {"db": self._database, "epoch": "ns", "q": query, "params": json.dumps(parameters)}
        request = urllib.request.Request(self._url, urllib.parse.urlencode(form).encode(), self._headers)
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                table = pd.read_csv(answer, dtype=dtypes, keep_default_na=False, na_values=absent)
        except pd.errors.EmptyDataError:
            return pd.DataFrame()
        except urllib.error.HTTPError as error:
            raise QueryError(f"InfluxDB {error.code}: {_message(error.read())}") from error
        except OSError as error:
            raise QueryError(f"InfluxDB at {self._url} does not answer: {error}") from error
        if "error" in table:
            raise QueryError(f"InfluxDB: {table['error'].iloc[0]}")
        return table

    def close(self) -> None:
        """Let go of the connection."""
        self._opener.close()


def _message(body: bytes) -> str:
    try:
        answer = json.loads(body)
        return str(answer.get("message") or answer["error"])
    except (ValueError, KeyError, AttributeError):
        return body.decode("utf-8", "replace")[:300]
