"""`Client.scan` as one SELECT, built so that nothing a caller passes can become more SQL than it should.

Names are always quoted. A filter is parsed here as one boolean expression and written out again from its tokens:
statements, subqueries, comments and unbalanced text are not in the grammar, so they cannot pass.

```text
expression  := unary (operator unary | [NOT] IN (…) | [NOT] BETWEEN … AND … | [NOT] LIKE … | IS [NOT] … | :: type)*
unary       := NOT unary | - unary | ( expression ) | literal | column | function(…) | CASE … END | CAST(… AS type)
```

Bare ISO dates and timestamps (`day < 2013-02-01`) are dates, as in the filter of an input.
"""

from __future__ import annotations

import re
from typing import NoReturn, Sequence

from .exceptions import BadRequestError

_DEPTH_MAX = 100

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")+")
    | (?P<timestamp>\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?(?!\w))
    | (?P<date>\d{4}-\d{2}-\d{2}(?![\w-]))
    | (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?!\w))
    | (?P<word>[^\W\d]\w*)
    | (?P<comment>--|/\*|\*/)
    | (?P<operator><=|>=|<>|!=|==|::|\|\||[=<>+\-*/%(),.])
    )""",
    re.VERBOSE,
)

# Binding power of each infix operator; NOT binds weaker than a comparison, a sign stronger than arithmetic.
_POWER = {"OR": 1, "AND": 2, "||": 5, "+": 6, "-": 6, "*": 7, "/": 7, "%": 7, "::": 9}
_COMPARISONS = {"=", "==", "!=", "<>", "<", "<=", ">", ">="}
_NOT_POWER, _COMPARISON_POWER, _SIGN_POWER = 3, 4, 8

# Words that cannot be a column without quotes.
_RESERVED = frozenset(
    "ALL AND ANY AS ASC BETWEEN BY CASE CAST CROSS DELETE DESC DISTINCT ELSE END ESCAPE EXCEPT EXISTS FETCH FROM FULL "
    "GROUP HAVING ILIKE IN INNER INSERT INTERSECT INTO IS JOIN LEFT LIKE LIMIT NATURAL NOT NULL OFFSET ON OR ORDER "
    "OUTER RIGHT SELECT SET THEN UNION UPDATE USING VALUES WHEN WHERE WINDOW WITH".split()
)
# What looks at more than one row.
_AGGREGATES = frozenset(
    "ANY_VALUE APPROX_DISTINCT APPROX_MEDIAN APPROX_PERCENTILE_CONT ARRAY_AGG AVG BIT_AND BIT_OR BIT_XOR BOOL_AND BOOL_OR CORR "
    "COUNT COVAR COVAR_POP COVAR_SAMP CUME_DIST DENSE_RANK FIRST_VALUE GROUPING LAG LAST_VALUE LEAD MAX MEAN MEDIAN MIN "
    "NTH_VALUE NTILE PERCENTILE_CONT PERCENT_RANK RANK ROW_NUMBER STDDEV STDDEV_POP STDDEV_SAMP STRING_AGG SUM VAR VAR_POP "
    "VAR_SAMP VARIANCE".split()
)
_TYPED_LITERALS = frozenset(("DATE", "TIME", "TIMESTAMP", "INTERVAL"))


def scan_statement(
    table: str,
    namespace: str | None = None,
    columns: Sequence[str] | None = None,
    filters: str | None = None,
    limit: int | None = None,
) -> str:
    """The SELECT of a scan.

    Raises:
        BadRequestError: (a `ValueError`, PLN0050) for an empty column list, a name that is not `table` or `namespace.table`, a filter that is not
            one boolean expression, or a negative limit.
    """
    names = table.split(".")
    if len(names) > 2 or not all(names):
        raise _refused(f"{table!r} is not the name of a table: write 'table' or 'namespace.table'")
    if namespace is not None and len(names) == 1:
        names.insert(0, namespace)
    elif namespace is not None and names[0] != namespace:
        raise _refused(f"table {table!r} is not in namespace {namespace!r}: leave one of them out")
    statement = f"SELECT {_selection(columns)} FROM {'.'.join(map(quoted, names))}"
    if filters is not None:
        statement += f" WHERE {boolean_expression(filters)}"
    if limit is not None:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise _refused(f"limit is a number of rows, not {limit!r}")
        statement += f" LIMIT {limit}"
    return statement


def quoted(name: str) -> str:
    """The name as a SQL identifier, whatever it holds.

    Raises:
        BadRequestError: (a `ValueError`) for an empty name or one with a NUL.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise _refused(f"{name!r} is not a name")
    return '"' + name.replace('"', '""') + '"'


def boolean_expression(text: str) -> str:
    """The filter, checked and written out again.

    Raises:
        BadRequestError: (a `ValueError`) if it is not one boolean expression; says where.
    """
    if isinstance(text, str) and "\0" in text:
        raise _refused("the filter holds a NUL")
    if not isinstance(text, str) or not text.strip():
        raise _refused("the filter is empty: leave `filters` out to read all rows")
    return _Parser(text).whole()


def _refused(why: str) -> BadRequestError:
    hint = "a scan takes names and one condition; `Client.query` takes SQL"
    return BadRequestError(why, code="PLN0050", fault="usage", hint=hint)


def _selection(columns: Sequence[str] | None) -> str:
    if columns is None:
        return "*"
    if isinstance(columns, str):
        raise _refused(f"columns is a list of names: [{columns!r}]")
    if not columns:
        raise _refused("Empty column list: leave `columns` out to read all")
    return "*" if list(columns) == ["*"] else ", ".join(map(quoted, columns))


class _Parser:
    """One pass over the tokens; each method returns the SQL it accepted and whether it can be a truth value."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._split()
        self.next = 0
        self.depth = 0

    def whole(self) -> str:
        sql, truth = self.expression(0)
        if self.kind() != "end":
            self.fail("did not expect")
        if not truth:
            raise _refused(f"the filter `{self.text}` is not a condition: compare it with something")
        return sql

    def expression(self, power: int) -> tuple[str, bool]:
        self.depth += 1
        if self.depth > _DEPTH_MAX:
            raise _refused(f"the filter is nested more than {_DEPTH_MAX} deep")
        left = self.unary()
        while True:
            longer = self.infix(left, power)
            if longer is None:
                self.depth -= 1
                return left
            left = longer

    def infix(self, left: tuple[str, bool], power: int) -> tuple[str, bool] | None:
        """`left` and the operator behind it, if that binds stronger than `power`."""
        operator = self.word()
        sql = left[0]
        if operator in _POWER and _POWER[operator] > power:
            self.take()
            if operator == "::":
                return f"{sql}::{self.type_name()}", True
            return f"{sql} {operator} {self.expression(_POWER[operator])[0]}", operator in ("AND", "OR")
        if _COMPARISON_POWER <= power:
            return None
        if operator in _COMPARISONS:
            self.take()
            operator = "=" if operator == "==" else operator
            return f"{sql} {operator} {self.expression(_COMPARISON_POWER)[0]}", True
        if operator == "IS":
            self.take()
            return f"{sql} IS {self.state()}", True
        negated = "NOT " if operator == "NOT" else ""
        if self.word(1 if negated else 0) not in ("IN", "BETWEEN", "LIKE", "ILIKE"):
            return None
        if negated:
            self.take()
        return f"{sql} {negated}{self.membership(self.take().upper())}", True

    def membership(self, operator: str) -> str:
        if operator == "IN":
            self.expect("(")
            return f"IN ({self.items(')')})"
        low = self.expression(_COMPARISON_POWER)[0]
        if operator == "BETWEEN":
            self.expect("AND")
            return f"BETWEEN {low} AND {self.expression(_COMPARISON_POWER)[0]}"
        if self.word() == "ESCAPE":
            self.take()
            low += f" ESCAPE {self.literal('text')}"
        return f"{operator} {low}"

    def state(self) -> str:
        negated = "NOT " if self.word() == "NOT" else ""
        if negated:
            self.take()
        if self.word() == "DISTINCT":
            self.take()
            self.expect("FROM")
            return f"{negated}DISTINCT FROM {self.expression(_COMPARISON_POWER)[0]}"
        if self.word() not in ("NULL", "TRUE", "FALSE", "UNKNOWN"):
            self.fail("expected NULL, TRUE, FALSE or UNKNOWN, not")
        return negated + self.take().upper()

    def unary(self) -> tuple[str, bool]:
        kind, word = self.kind(), self.word()
        if kind in ("text", "number"):
            return self.take(), False
        if kind in ("date", "timestamp"):
            return f"{kind.upper()} '{self.take()}'", False
        if word == "NOT":
            self.take()
            return f"NOT {self.expression(_NOT_POWER)[0]}", True
        if word in ("+", "-"):
            self.take()
            return f"{word} {self.expression(_SIGN_POWER)[0]}", False
        if word == "(":
            self.take()
            sql, truth = self.expression(0)
            self.expect(")")
            return f"({sql})", truth
        if kind == "quoted":
            return self.name(), True
        if kind != "word":
            self.fail("expected a column or value, not")
        return self.worded(word)

    def worded(self, word: str) -> tuple[str, bool]:
        """What begins with a bare word."""
        if word in ("TRUE", "FALSE", "NULL"):
            return self.take().upper(), word != "NULL"
        if word == "CASE":
            return self.case(), True
        called = self.word(1) == "("
        if word in ("CAST", "TRY_CAST", "EXTRACT") and called:
            return self.special(word), True
        if word in _TYPED_LITERALS and self.kind(1) == "text":
            self.take()
            return f"{word} {self.take()}", False
        if called and word in _AGGREGATES:
            self.fail("an aggregate cannot be in it:")
        if called and (word not in _RESERVED or word in ("LEFT", "RIGHT")):
            function = self.take()
            self.take()
            return f"{function}({self.items(')', empty=True)})", True
        if word in _RESERVED:
            self.fail("expected a column or value, not")
        return self.name(), True

    def case(self) -> str:
        self.take()
        sql = "CASE"
        if self.word() != "WHEN":
            sql += " " + self.expression(0)[0]
        while self.word() == "WHEN" or " WHEN " not in sql:
            self.expect("WHEN")
            condition = self.expression(0)[0]
            self.expect("THEN")
            sql += f" WHEN {condition} THEN {self.expression(0)[0]}"
        if self.word() == "ELSE":
            self.take()
            sql += f" ELSE {self.expression(0)[0]}"
        self.expect("END")
        return sql + " END"

    def special(self, function: str) -> str:
        """The calls that hold words instead of commas."""
        self.take()
        self.expect("(")
        if function == "EXTRACT":
            part = self.literal("word")
            self.expect("FROM")
            inside = f"{part} FROM {self.expression(0)[0]}"
        else:
            value = self.expression(0)[0]
            self.expect("AS")
            inside = f"{value} AS {self.type_name()}"
        self.expect(")")
        return f"{function}({inside})"

    def type_name(self) -> str:
        words = [self.literal("word")]
        while self.kind() == "word" and self.word() in ("PRECISION", "WITH", "WITHOUT", "TIME", "ZONE", "VARYING", "UNSIGNED"):
            words.append(self.take())
        name = " ".join(words)
        if self.word() != "(":
            return name
        self.take()
        sizes = [self.literal("number")]
        while self.word() == ",":
            self.take()
            sizes.append(self.literal("number"))
        self.expect(")")
        return f"{name}({', '.join(sizes)})"

    def name(self) -> str:
        """A column, perhaps qualified, always quoted."""
        parts = [self.part()]
        while self.word() == ".":
            self.take()
            parts.append(self.part())
        return ".".join(parts)

    def part(self) -> str:
        if self.kind() == "quoted":
            return self.take()
        return quoted(self.literal("word"))

    def items(self, end: str, empty: bool = False) -> str:
        if empty and self.word() == end:
            self.take()
            return ""
        items = [self.expression(0)[0]]
        while self.word() == ",":
            self.take()
            items.append(self.expression(0)[0])
        self.expect(end)
        return ", ".join(items)

    def kind(self, ahead: int = 0) -> str:
        return self.tokens[min(self.next + ahead, len(self.tokens) - 1)][0]

    def word(self, ahead: int = 0) -> str:
        """The coming token as a keyword or operator; quoted names and texts are neither."""
        kind, text, _ = self.tokens[min(self.next + ahead, len(self.tokens) - 1)]
        return text.upper() if kind in ("word", "operator") else ""

    def take(self) -> str:
        text = self.tokens[self.next][1]
        self.next += 1
        return text

    def expect(self, word: str) -> None:
        if self.word() != word:
            self.fail(f"expected `{word}`, not")
        self.take()

    def literal(self, kind: str) -> str:
        if self.kind() != kind:
            self.fail(f"expected a {kind}, not")
        return self.take()

    def fail(self, complaint: str) -> NoReturn:
        kind, text, at = self.tokens[min(self.next, len(self.tokens) - 1)]
        found = "its end" if kind == "end" else f"`{text}`"
        raise _refused(f"the filter `{self.text}` is not a condition: {complaint} {found} at column {at + 1}")

    def _split(self) -> list[tuple[str, str, int]]:
        tokens = []
        at, end = 0, len(self.text.rstrip())
        while at < end:
            found = _TOKEN.match(self.text, at, end)
            kind = found.lastgroup if found else None
            if found is None or kind is None or kind == "comment":
                rest = self.text[at:end].lstrip()
                raise _refused(f"the filter `{self.text}` is not a condition: cannot read `{rest}`")
            tokens.append((kind, found.group(kind), found.start(kind)))
            at = found.end()
        tokens.append(("end", "", end))
        return tokens
