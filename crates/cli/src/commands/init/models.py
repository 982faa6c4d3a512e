"""Two models and an expectation.

`forebay run` reads this file without running it, plans the DAG, and gives each function a process of its own.
"""

import forebay


@forebay.model()
def readings():
    """Made here, so that the project runs on an empty lake. Without a strategy it is handed on, not stored."""
    return [
        {"station": "harbour", "celsius": 11.5},
        {"station": "harbour", "celsius": 12.5},
        {"station": "summit", "celsius": -7.0},
        {"station": "summit", "celsius": -273.0},
    ]


@forebay.model(materialization_strategy="REPLACE")
def station_means(
    data=forebay.Model("readings", columns=["station", "celsius"], filter="celsius >= $coldest"),
):
    """The mean temperature of each station, stored as a table of the lake."""
    print(f"{data.num_rows} readings pass the filter")
    return data.group_by("station").aggregate([("celsius", "mean")])


@forebay.expectation()
def every_station_has_a_mean(data=forebay.Model("station_means")):
    """If this is not true, the run fails and the lake stays as it was."""
    return data["celsius_mean"].null_count == 0
