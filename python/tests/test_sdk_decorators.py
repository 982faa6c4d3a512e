"""Decorators and inputs: inert, typed, quick to import, and exact about arguments they do not know."""

import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import forebay

HERE = Path(forebay.__file__).parent


def test_decorators_return_the_function_itself():
    def body(data=forebay.Model("flights")):
        return data

    for decorate in (
        forebay.model(name="x", columns=["*"], partitioned_by="day(t)", materialization_strategy="replace"),
        forebay.model("x", materialize=True, internet_access=True, cache_strategy="NONE"),
        forebay.python("3.11", pip={"pandas": "2.2"}),
        forebay.python(),
        forebay.resources(cpus=0.5, memory="1G", timeout=3),
        forebay.expectation(),
        forebay.extras("ai"),
    ):
        assert decorate(body) is body
    assert body("anything") == "anything"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: forebay.model(materialisation_strategy="REPLACE"), "did you mean 'materialization_strategy'?"),
        (lambda: forebay.model(partition_by="day"), "did you mean 'partitioned_by'?"),
        (lambda: forebay.python("3.11", packages={}), "it takes version, pip"),
        (lambda: forebay.resources(cpu=1), "did you mean 'cpus'?"),
        (lambda: forebay.expectation(name="x"), "it takes no arguments"),
        (lambda: forebay.Model("t", column=["a"]), "did you mean 'columns'?"),
        (lambda: forebay.Model("t", filters="a"), "did you mean 'filter'?"),
        (lambda: forebay.Parameter("p", default=1), "it takes name"),
        (lambda: forebay.python(3.11), "as text"),
        (lambda: forebay.model(lambda data: data), "parentheses"),
        (lambda: forebay.Model(3), "as text"),
    ],
)
def test_wrong_arguments_are_type_errors_that_suggest(call, words):
    with pytest.raises(TypeError) as caught:
        call()
    assert words in str(caught.value)


def test_values_of_closed_sets_are_checked():
    with pytest.raises(ValueError, match="NONE, REPLACE, APPEND, OVERWRITE_PARTITIONS, MERGE"):
        forebay.model(materialization_strategy="UPSERT")
    with pytest.raises(ValueError, match="NONE, DEFAULT"):
        forebay.model(cache_strategy="on")


def test_inputs_say_what_they_name():
    assert repr(forebay.Model("t", columns=["a"], filter="a > 1", ref="v1")) == (
        "forebay.Model('t', columns=['a'], filter='a > 1', ref='v1')"
    )
    assert repr(forebay.Parameter("p")) == "forebay.Parameter('p')"


def test_inputs_fit_into_annotations():
    def body(data: "typing.Annotated[object, forebay.Model('t')]") -> None: ...

    hints = typing.get_type_hints(body, include_extras=True, globalns={"typing": typing, "forebay": forebay})
    assert hints["data"].__metadata__[0].name == "t"


def test_signatures_survive_the_check():
    assert list(inspect.signature(forebay.model).parameters)[:3] == ["name", "columns", "partitioned_by"]
    assert "filter" in inspect.signature(forebay.Model).parameters


def test_every_public_name_is_there_documented_and_annotated():
    for name in forebay.__all__:
        value = getattr(forebay, name)
        assert value.__doc__, name
        if inspect.isfunction(value):
            assert "return" in value.__annotations__, name
    for name, method in inspect.getmembers(forebay.Client, inspect.isfunction):
        if not name.startswith("_"):
            assert method.__doc__ and "return" in method.__annotations__, name
            missing = set(inspect.signature(method).parameters) - set(method.__annotations__) - {"self"}
            assert not missing, (name, missing)
    assert (HERE / "py.typed").exists()
    assert set(forebay.__all__) <= set(dir(forebay))
    with pytest.raises(AttributeError, match="no attribute 'Modle'"):
        forebay.Modle


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules); import forebay; "
        "print(*sorted(name for name in set(sys.modules) - before if not name.startswith(('forebay', '__future__'))))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code, str(HERE.parent)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
