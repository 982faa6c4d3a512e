"""Models over the flights, in pandas (two versions), polars and duckdb, and two expectations.

Packages are imported inside the functions: each function runs in a process of its own, with the packages it names.
"""

from typing import TYPE_CHECKING

import forebay
from forebay import standard_expectations as checks

if TYPE_CHECKING:
    import polars as pl


@forebay.model(materialization_strategy="REPLACE")
@forebay.python("3.11", pip={"pandas": "2.2", "numpy": "1.26"})
def carrier_scorecard(
    arrivals=forebay.Model("arrivals", columns=["carrier", "arr_delay", "late"]),
    airlines=forebay.Model("airlines"),
):
    """How punctual each airline was, best first."""
    import pandas as pd

    print(f"pandas {pd.__version__} scores {arrivals.num_rows:,} arrivals")
    scores = (
        arrivals.to_pandas()
        .groupby("carrier", as_index=False)
        .agg(arrivals=("late", "size"), late_share=("late", "mean"), median_delay=("arr_delay", "median"))
    )
    named = airlines.to_pandas().merge(scores, on="carrier")
    return named.sort_values("late_share", ignore_index=True)


@forebay.model()
@forebay.python("3.11", pip={"pandas": "2.3", "numpy": "2"})
def late_routes(
    # A filter works on a model as on a table of the lake: only late flights reach this function.
    arrivals=forebay.Model("arrivals", columns=["origin", "dest", "arr_delay", "distance"], filter="late"),
    airports=forebay.Model("airports", columns=["faa", "name"]),
):
    """The routes with most late arrivals, and where they go."""
    import pandas as pd

    print(f"pandas {pd.__version__} counts {arrivals.num_rows:,} late arrivals")
    routes = (
        arrivals.to_pandas()
        .groupby(["origin", "dest"], as_index=False)
        .agg(late=("arr_delay", "size"), mean_delay=("arr_delay", "mean"), distance=("distance", "first"))
    )
    names = airports.to_pandas().rename(columns={"faa": "dest", "name": "destination"})
    return routes.merge(names, on="dest", how="left").nlargest(20, "late")


@forebay.model()
@forebay.python("3.11", pip={"polars": ""})
def weather_delays(
    # The annotation says in which form the function wants its table; without one it is a pyarrow.Table.
    arrivals: "pl.DataFrame" = forebay.Model("arrivals", columns=["origin", "time_hour", "dep_delay"]),
    weather: "pl.DataFrame" = forebay.Model("weather", columns=["origin", "time_hour", "wind_speed", "visib", "precip"]),
):
    """Departure delay by the weather of the hour."""
    import polars as pl

    conditions = weather.with_columns(
        sky=pl.when(pl.col("precip") > 0)
        .then(pl.lit("rain or snow"))
        .when(pl.col("visib") < 3)
        .then(pl.lit("fog"))
        .when(pl.col("wind_speed") > 20)
        .then(pl.lit("strong wind"))
        .otherwise(pl.lit("fair"))
    )
    return (
        arrivals.join(conditions, on=["origin", "time_hour"])
        .group_by("sky")
        .agg(departures=pl.len(), mean_delay=pl.col("dep_delay").mean())
        .sort("mean_delay", descending=True)
    )


@forebay.model()
@forebay.python("3.11", pip={"duckdb": ""})
def plane_age(
    arrivals=forebay.Model("arrivals", columns=["tailnum", "day", "late"]),
    planes=forebay.Model("planes", columns=["tailnum", "year", "manufacturer", "seats"], filter="year IS NOT NULL"),
):
    """Do older planes arrive later? Planes by decade of age, joined by duckdb on the same memory."""
    import duckdb

    return duckdb.sql(
        """
        SELECT (year(day) - planes.year) // 10 * 10 AS years_old, count(*) AS arrivals,
               count(DISTINCT tailnum) AS planes, avg(late::INT) AS late_share
        FROM arrivals JOIN planes USING (tailnum)
        GROUP BY years_old ORDER BY years_old
        """
    )


@forebay.model()
def findings(
    scorecard=forebay.Model("carrier_scorecard"),
    routes=forebay.Model("late_routes"),
    weather=forebay.Model("weather_delays"),
    planes=forebay.Model("plane_age"),
    min_delay=forebay.Parameter("min_delay"),
):
    """The answers in four lines. It needs no packages, so it names none; what it prints appears where the run was started."""
    best, route = scorecard.to_pylist()[0], routes.to_pylist()[0]
    worst, oldest = weather.to_pylist()[0], planes.to_pylist()[-1]
    answers = {
        "carrier": f"{best['name']}: {best['late_share']:.1%} of its arrivals {min_delay} minutes late or more",
        "route": f"{route['origin']} to {route['dest']}: {route['late']:,} late arrivals",
        "weather": f"{worst['sky']}: departures {worst['mean_delay']:.0f} minutes late on average",
        "planes": f"{oldest['years_old']} years and older: {oldest['late_share']:.1%} of arrivals late",
    }
    for question, answer in answers.items():
        print(f"{question:>8}  {answer}")
    return [{"question": question, "answer": answer} for question, answer in answers.items()]


@forebay.expectation()
def every_carrier_is_scored_once(scorecard=forebay.Model("carrier_scorecard", columns=["carrier", "name"])):
    """A join that lost or doubled carriers would show here."""
    return checks.expect_column_all_unique(scorecard, "carrier") and checks.expect_column_no_nulls(scorecard, "name")


@forebay.expectation()
def most_arrivals_are_on_time(days=forebay.Model("daily_delays", columns=["arrived", "late"])):
    """Lateness is the exception; if not, the threshold makes no sense."""
    import pyarrow.compute as pc

    arrived, late = pc.sum(days["arrived"]).as_py(), pc.sum(days["late"]).as_py()
    print(f"{late:,} of {arrived:,} arrivals were late")
    return late < arrived / 2
