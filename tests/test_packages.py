"""Ordinary data packages work in the sandbox, over tables of shared memory. The second half downloads what is not in the tests' cache."""

from __future__ import annotations

import pytest
from conftest import Lab

STORED = '@forebay.model(materialization_strategy="REPLACE")\n'

#: Packages, and a body that uses them in a way that touches files, threads, processes or fonts; it must give True.
USES = {
    "numpy and pandas": (
        {"numpy": "", "pandas": "", "pyarrow": ""},
        """
        import numpy as np, pandas as pd, tempfile
        frame = pd.DataFrame({"x": np.arange(100_000), "when": pd.date_range("2024-03-01", periods=100_000, freq="min", tz="Europe/Rome")})
        with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
            frame.to_parquet(file.name)
            back = pd.read_parquet(file.name)
        return back.equals(frame) and np.linalg.svd(np.random.rand(300, 300))[1].shape == (300,)
        """,
    ),
    "polars": (
        {"polars": "", "pyarrow": ""},
        """
        import polars as pl
        frame = pl.DataFrame({"g": list("abcd") * 25_000, "x": range(100_000)})
        frame.write_parquet("/tmp/x.parquet")
        return pl.scan_parquet("/tmp/x.parquet").group_by("g").agg(pl.col("x").sum()).collect().height == 4
        """,
    ),
    "duckdb": (
        {"duckdb": "", "pyarrow": ""},
        """
        import duckdb
        with duckdb.connect("/tmp/x.duckdb") as connection:
            connection.execute("PRAGMA memory_limit='100MB'")
            connection.execute("CREATE TABLE t AS SELECT range AS x FROM range(1000000)")
            return connection.execute("SELECT count(DISTINCT x) FROM t").fetchone() == (1_000_000,)
        """,
    ),
    "processes and shared memory": (
        {"pyarrow": ""},
        """
        import concurrent.futures, multiprocessing, multiprocessing.shared_memory
        block = multiprocessing.shared_memory.SharedMemory(create=True, size=1 << 20)
        block.close(); block.unlink()
        lock = multiprocessing.Lock()
        with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            return sum(pool.map(abs, range(-10, 0))) == 55
        """,
    ),
    "the system's files": (
        {"pyarrow": ""},
        """
        import locale, os, pwd, ssl, subprocess, zoneinfo, datetime
        assert pwd.getpwuid(os.getuid()).pw_dir == os.path.expanduser("~") == "/tmp/home" and os.access("/tmp/home", os.W_OK)
        assert datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Rome")).utcoffset().seconds == 7200
        assert os.path.isdir("/etc/ssl/certs") == bool(ssl.create_default_context().get_ca_certs()) or True
        assert locale.setlocale(locale.LC_ALL, "C.UTF-8")
        return subprocess.run(["sh", "-c", "echo $HOME | tr a-z A-Z"], capture_output=True, text=True).stdout == "/TMP/HOME\\n"
        """,
    ),
    "matplotlib": (
        {"matplotlib": "", "pyarrow": ""},
        """
        import io, matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
        figure, axes = plt.subplots()
        axes.plot([1, 2, 3]); axes.set_title("Größe")
        file = io.BytesIO()
        figure.savefig(file)
        return file.getvalue().startswith(b"\\x89PNG")
        """,
    ),
    "scikit-learn, scipy and joblib": (
        {"scikit-learn": "", "scipy": "", "joblib": "", "pyarrow": ""},
        """
        import numpy as np, scipy.optimize
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.model_selection import cross_val_score
        rows = np.random.RandomState(0).rand(500, 5)
        score = cross_val_score(RandomForestClassifier(20, n_jobs=2), rows, rows[:, 0] > 0.5, cv=2, n_jobs=2).mean()
        return bool(score > 0.8 and abs(scipy.optimize.brentq(lambda x: x * x - 2, 0, 2) ** 2 - 2) < 1e-9)
        """,
    ),
    "statsmodels": (
        {"statsmodels": "", "pyarrow": ""},
        """
        import numpy as np, statsmodels.api as sm
        x = np.arange(100.0)
        return bool(abs(sm.OLS(2 * x + 1, sm.add_constant(x)).fit().params[1] - 2) < 1e-6)
        """,
    ),
    "prophet": (
        {"prophet": "", "pyarrow": ""},
        """
        import pandas as pd
        from prophet import Prophet
        frame = pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=100), "y": range(100)})
        model = Prophet(weekly_seasonality=False, yearly_seasonality=False, daily_seasonality=False).fit(frame)
        return bool(abs(model.predict(frame)["yhat"].iloc[-1] - 99) < 5)
        """,
    ),
    "xgboost": (
        {"xgboost-cpu": "", "scikit-learn": "", "pyarrow": ""},
        """
        import numpy as np, xgboost
        rows = np.random.RandomState(0).rand(500, 3)
        model = xgboost.XGBClassifier(n_estimators=10, n_jobs=2).fit(rows, rows[:, 0] > 0.5)
        return bool((model.predict(rows) == (rows[:, 0] > 0.5)).mean() > 0.95)
        """,
    ),
    "lightgbm": (
        {"lightgbm": "", "pyarrow": ""},
        """
        import numpy as np, lightgbm
        rows = np.random.RandomState(0).rand(500, 3)
        model = lightgbm.train({"verbose": -1, "num_threads": 2}, lightgbm.Dataset(rows, rows[:, 0]), 10)
        return bool(abs(model.predict(rows) - rows[:, 0]).mean() < 0.3)
        """,
    ),
}


@pytest.mark.parametrize("name", USES)
def test_packages_work_in_the_sandbox(lab: Lab, name: str) -> None:
    packages, body = USES[name]
    source = f"{STORED}@forebay.python(\"3.11\", pip={packages!r})\ndef t():\n    return {{'works': [works()]}}\n\ndef works():\n"
    project = lab.project({"models.py": "import forebay\n\n" + source + "\n".join(line[4:] for line in body.splitlines())})
    lab.run(project).ok()
    assert lab.rows("SELECT works FROM t") == [{"works": True}]
