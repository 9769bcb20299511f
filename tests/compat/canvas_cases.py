# ruff: noqa: E501 - printed forms are as long as they are
"""Canvas expressions, and what Celery 5.7 on Redis printed and returned for them.

Each is evaluated in a namespace of the tasks of `tests.worker.canvas_tasks` and of Celery's
primitives. The results come from runs of a real worker of Celery's.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Raises(NamedTuple):
    """`get` raises this, and not only this: a ChordError is the error in the header too."""

    name: str


class Case(NamedTuple):
    """An expression, its printed form (None: it holds an address or a generator), and its result."""

    expression: str
    printed: str | None
    result: Any


PARTIAL = {"add.s(2) | add.s(3)", "chain(add.s(i) for i in range(1, 4))", "chain(add.s(4))"}
"""Those that are called with the argument 10."""

CASES = (
    Case("add.s(2, 2)", "tasks.add(2, 2)", 4),
    Case("add.s(2) | add.s(3)", "tasks.add(2) | add(3)", 15),
    Case("add.s(2, 2) | add.s(4) | add.s(8)", "tasks.add(2, 2) | add(4) | add(8)", 16),
    Case("chain(add.s(2, 2), add.s(4))", "tasks.add(2, 2) | add(4)", 8),
    Case("chain([add.s(2, 2), add.s(4)])", "tasks.add(2, 2) | add(4)", 8),
    Case("chain(add.s(i) for i in range(1, 4))", "tasks.add(1) | add(2) | add(3)", 16),
    Case("chain(add.s(4))", "tasks.add(4)", 14),
    Case("chain(add.s(2, 4))", "tasks.add(2, 4)", 6),
    Case("chain(chain(add.s(2, 4)), chain(add.s(1)))", "tasks.add(2, 4) | add(1)", 7),
    Case(
        "chain(add.s(1, 2), chain(add.s(3), chain(add.s(4), add.s(5))))",
        "tasks.add(1, 2) | add(3) | add(4) | add(5)",
        15,
    ),
    Case("group(add.s(1, 1), add.s(2, 2))", "group((tasks.add(1, 1), add(2, 2)))", [2, 4]),
    Case("group([add.s(1, 1), add.s(2, 2)])", "group([tasks.add(1, 1), add(2, 2)])", [2, 4]),
    Case("group(add.s(i, i) for i in range(4))", None, [0, 2, 4, 6]),
    Case("group(add.s(1, 1))", "group([tasks.add(1, 1)])", [2]),
    Case(
        "group(group(add.s(1, 1), add.s(2, 2)), add.s(3, 3))",
        "group((group((tasks.add(1, 1), add(2, 2))), tasks.add(3, 3)))",
        [2, 4, 6],
    ),
    Case(
        "group(group(group(add.s(1, 1))), group(add.s(2, 2)))",
        "group((group([tasks.add(1, 1)]), group([tasks.add(2, 2)])))",
        [2, 4],
    ),
    Case("group([])", "group(<empty>)", []),
    Case("group()", "group(<empty>)", []),
    Case(
        "group(chain(add.s(1, 1), add.s(2)), add.s(3, 3))", "group((tasks.add(1, 1) | add(2), tasks.add(3, 3)))", [4, 6]
    ),
    Case(
        "group(add.s(1, 1) | group(add.s(2), add.s(3)))", "group([tasks.add(1, 1) | group((add(2), add(3)))])", [4, 5]
    ),
    Case(
        "group(add.s(1, 1) | group(add.s(2), add.s(3)), add.s(4, 4))",
        "group((tasks.add(1, 1) | group((add(2), add(3))), tasks.add(4, 4)))",
        [[4, 5], 8],
    ),
    Case("group(chain())", None, []),
    Case("group(add.s(1,1), chain())", None, [2]),
    Case("add.s(1, 1) | group(add.s(2), add.s(3))", "tasks.add(1, 1) | group((add(2), add(3)))", [4, 5]),
    Case("add.s(1, 1) | group(add.s(2))", "tasks.add(1, 1) | add(2)", 4),
    Case("add.s(1, 1) | group(add.s(2), add.s(3)) | tsum.s()", "tasks.add(1, 1) | %tsum((add(2), add(3)))", 9),
    Case(
        "add.s(1, 1) | group(add.s(2), add.s(3)) | tsum.s() | add.s(1)",
        "tasks.add(1, 1) | %(tsum([add(2), add(3)]) | add(1))",
        10,
    ),
    Case(
        "add.s(1, 1) | group(add.s(2), add.s(3)) | group(tsum.s(), tsum.s())",
        "tasks.add(1, 1) | group((add(2), add(3))) | group((tsum(), tsum()))",
        [9, 9],
    ),
    Case(
        "add.s(1, 1) | group(add.s(2), add.s(3)) | group(tsum.s(), ident.s()) | ident.s()",
        "tasks.add(1, 1) | group((add(2), add(3))) | %ident((tsum(), ident()))",
        [9, [4, 5]],
    ),
    Case("group(add.s(2, 2), add.s(3, 3)) | tsum.s()", "%tasks.tsum((add(2, 2), add(3, 3)))", 10),
    Case("group(add.s(2, 2), add.s(3, 3)) | tsum.s() | add.s(1)", "%(tasks.tsum([add(2, 2), add(3, 3)]) | add(1))", 11),
    Case(
        "group(add.s(2, 2), add.s(3, 3)) | tsum.s() | group(add.s(1), add.s(2))",
        "%tasks.tsum((add(2, 2), add(3, 3))) | group((tasks.add(1), add(2)))",
        [11, 12],
    ),
    Case(
        "group(add.s(2, 2), add.s(3, 3)) | tsum.s() | group(add.s(1), add.s(2)) | tsum.s()",
        "%(tasks.tsum([add(2, 2), add(3, 3)]) | %tsum((add(1), add(2))))",
        23,
    ),
    Case(
        "group(add.s(2, 2), add.s(3, 3)) | group(tsum.s(), tsum.s())",
        "%celery.group((tasks.add(2, 2), tasks.add(3, 3)), tasks=(tasks.tsum(), tasks.tsum()))",
        [10, 10],
    ),
    Case("group(add.s(2, 2)) | ident.s()", "%tasks.ident([add(2, 2)])", [4]),
    Case(
        "group(add.s(2, 2)) | group(add.s(1), add.s(2))",
        "%celery.group([tasks.add(2, 2)], tasks=(tasks.add(1), tasks.add(2)))",
        Raises("TypeError"),
    ),
    Case(
        "group(add.s(5, 6), add.s(5, 6)) | tsum.s() | add.s(1) | group(add.s(1), add.s(1))",
        "%(tasks.tsum([add(5, 6), add(5, 6)]) | add(1)) | group((tasks.add(1), add(1)))",
        [24, 24],
    ),
    Case(
        "add.s(5, 6) | group((add.s(1) | add.s(2), add.s(3)))",
        "tasks.add(5, 6) | group((add(1) | add(2), add(3)))",
        [14, 14],
    ),
    Case(
        "add.s(5, 6) | group(add.s(1) | add.s(2), add.s(3)) | ident.s()",
        "tasks.add(5, 6) | %ident((add(1) | add(2), add(3)))",
        [14, 14],
    ),
    Case("chord([add.s(1, 1), add.s(2, 2)], tsum.s())", "%tasks.tsum([add(1, 1), add(2, 2)])", 6),
    Case("chord([add.s(1, 1)], ident.s())", "%tasks.ident([add(1, 1)])", [2]),
    Case("chord([], ident.s())", "%tasks.ident([])", []),
    Case("chord([], tsum.s() | add.s(1))", "%(tasks.tsum([]) | add(1))", 1),
    Case("chord(group([]), ident.s())", "%tasks.ident([])", []),
    Case("chord([add.s(1, 1), add.s(2, 2)], add.si(1, 1))", "%tasks.add([add(1, 1), add(2, 2)], 1, 1)", 2),
    Case("chord([add.s(1, 1), add.s(2, 2)], const.si())", "%tasks.const([add(1, 1), add(2, 2)])", 7),
    Case("chord((add.s(i, i) for i in range(10)), tsum.s())", None, 90),
    Case(
        "chord([add.s(1, 1), add.s(2, 2)], tsum.s() | add.s(10))", "%(tasks.tsum([add(1, 1), add(2, 2)]) | add(10))", 16
    ),
    Case(
        "chord([add.s(1, 1), add.s(2, 2)], group(tsum.s(), ident.s()))",
        "%celery.group([tasks.add(1, 1), tasks.add(2, 2)], tasks=(tasks.tsum(), tasks.ident()))",
        [6, [2, 4]],
    ),
    Case(
        "chord([add.s(1, 1), add.s(2, 2)], group(tsum.s(), ident.s()) | ident.s())",
        "%celery.chord([tasks.add(1, 1), tasks.add(2, 2)], kwargs={}, header=(tasks.tsum(), tasks.ident()), body=tasks.ident())",
        [6, [2, 4]],
    ),
    Case(
        "chord([add.s(1, 1), add.s(2, 2)], tsum.s() | group(add.s(1), add.s(2)))",
        "%(tasks.tsum([add(1, 1), add(2, 2)]) | group((add(1), add(2))))",
        [7, 8],
    ),
    Case(
        "chord([add.s(1, 1), add.s(2, 2)], chord([tsum.s(), ident.s()], ident.s()))",
        "%celery.chord([tasks.add(1, 1), tasks.add(2, 2)], kwargs={}, header=[tasks.tsum(), tasks.ident()], body=tasks.ident())",
        [6, [2, 4]],
    ),
    Case(
        "chord([chord([add.s(1, 1), add.s(2, 2)], tsum.s()), add.s(3, 3)], ident.s())",
        "%tasks.ident([%tsum([add(1, 1), add(2, 2)]), add(3, 3)])",
        [6, 6],
    ),
    Case(
        "chord([chord([add.s(1, 1)], tsum.s()), chord([add.s(3, 3)], tsum.s())], ident.s())",
        "%tasks.ident([%tsum([add(1, 1)]), %tsum([add(3, 3)])])",
        [2, 6],
    ),
    Case(
        "chord([chain(add.s(1, 1), add.s(2)), add.s(3, 3)], ident.s())",
        "%tasks.ident([add(1, 1) | add(2), add(3, 3)])",
        [4, 6],
    ),
    Case(
        "chord([chain(add.s(1, 1), group(add.s(2), add.s(3)))], ident.s())",
        "%tasks.ident([add(1, 1) | group((add(2), add(3)))])",
        [[4, 5]],
    ),
    Case(
        "chord([chain(add.s(1, 1), group(add.s(2), add.s(3))), add.s(4, 4)], ident.s())",
        "%tasks.ident([add(1, 1) | group((add(2), add(3))), add(4, 4)])",
        [[4, 5], 8],
    ),
    Case(
        "chord([add.s(4, 4), chain(add.s(1, 1), group(add.s(2), add.s(3)))], ident.s())",
        "%tasks.ident([add(4, 4), add(1, 1) | group((add(2), add(3)))])",
        [8, [4, 5]],
    ),
    Case(
        "chord([chord([add.s(1, 1)], group(add.s(1,1), add.s(2,2)))], ident.s())",
        "%tasks.ident([%celery.group([add(1, 1)], tasks=(add(1, 1), add(2, 2)))])",
        Raises("ChordError"),
    ),
    Case(
        "chord(group(add.s(1, 1), add.s(2, 2)) | tsum.s(), ident.s())",
        "%tasks.ident([%tsum([add(1, 1), add(2, 2)])])",
        [6],
    ),
    Case("chord(chain(add.s(1, 1), add.s(2)), ident.s())", "%tasks.ident([add(1, 1), add(2)])", Raises("TypeError")),
    Case("chord(add.s(1, 1), ident.s())", "%tasks.ident([add(1, 1)])", [2]),
    Case("chord([add.s(1, 1), add.s(2, 2)], tsum.s()) | add.s(1)", "%(tasks.tsum([add(1, 1), add(2, 2)]) | add(1))", 7),
    Case(
        "chord([add.s(1, 1), add.s(2, 2)], tsum.s()) | group(add.s(1), add.s(2))",
        "%tasks.tsum([add(1, 1), add(2, 2)]) | group((tasks.add(1), add(2)))",
        [7, 8],
    ),
    Case(
        "chord([add.s(1, 1), add.s(2, 2)], tsum.s()) | group(add.s(1))",
        "%(tasks.tsum([add(1, 1), add(2, 2)]) | add(1))",
        7,
    ),
    Case(
        "chord([add.s(1, 1), add.s(2, 2)], tsum.s()) | chord([add.s(1), add.s(2)], tsum.s())",
        "%(tasks.tsum([add(1, 1), add(2, 2)]) | %tsum([add(1), add(2)]))",
        15,
    ),
    Case(
        "chord([add.s(1, 1), add.s(2, 2)], tsum.s()) | chain(add.s(1), add.s(2))",
        "%tasks.tsum([add(1, 1), add(2, 2)]) | tasks.add(1) | tasks.add(2)",
        9,
    ),
    Case("add.s(1, 1) | chord([add.s(1), add.s(2)], tsum.s())", "tasks.add(1, 1) | %tsum([add(1), add(2)])", 7),
    Case(
        "add.s(1, 1) | chord([add.s(1), add.s(2)], tsum.s()) | add.s(3)",
        "tasks.add(1, 1) | %(tsum([add(1), add(2)]) | add(3))",
        10,
    ),
    Case("add.s(1, 1) | chord([], ident.s())", "tasks.add(1, 1) | %ident([])", []),
    Case("chain(add.s(1, 1), group([]), add.s(3))", "tasks.add(1, 1) | add(3)", 5),
    Case("chain(group([]), add.s(1, 1))", "tasks.add(1, 1)", 2),
    Case("group([]) | ident.s()", "%tasks.ident([])", []),
    Case("group(add.s(1,1), group([])) | ident.s()", "%tasks.ident((add(1, 1), group(<empty>)))", [2]),
    Case(
        "chain(group(add.s(1, 1), add.s(2, 2)), tsum.s(), add.s(5))",
        "%(tasks.tsum([add(1, 1), add(2, 2)]) | add(5))",
        11,
    ),
    Case(
        "chain(group(add.s(1, 1), add.s(2, 2)), group(ident.s(), tsum.s()), ident.s())",
        "%celery.chord([tasks.add(1, 1), tasks.add(2, 2)], kwargs={}, header=(tasks.ident(), tasks.tsum()), body=tasks.ident())",
        [[2, 4], 6],
    ),
    Case(
        "chain(add.s(1, 1), chord([add.s(1), chord([add.s(2), add.s(3)], tsum.s())], tsum.s()), add.s(100))",
        "tasks.add(1, 1) | %(tsum([add(1), %tsum([add(2), add(3)])]) | add(100))",
        112,
    ),
    Case(
        "chain(add.s(1, 1), group(chain(add.s(1), group(add.s(2), add.s(3))), add.s(4)), ident.s())",
        "tasks.add(1, 1) | %ident((add(1) | group((add(2), add(3))), add(4)))",
        [[5, 6], 6],
    ),
    Case(
        "group(chord([add.s(1, 1), add.s(2, 2)], tsum.s()), add.s(3, 3))",
        "group((%tasks.tsum([add(1, 1), add(2, 2)]), tasks.add(3, 3)))",
        [6, 6],
    ),
    Case(
        "group(chord([add.s(1, 1), add.s(2, 2)], group(tsum.s(), ident.s())), add.s(3, 3))",
        "group((%celery.group([tasks.add(1, 1), tasks.add(2, 2)], tasks=(tasks.tsum(), tasks.ident())), tasks.add(3, 3)))",
        [[6, [2, 4]], 6],
    ),
    Case(
        "group(chain(group(add.s(1, 1), add.s(2, 2)), tsum.s()), add.s(3, 3))",
        "group((%tasks.tsum((add(1, 1), add(2, 2))), tasks.add(3, 3)))",
        [6, 6],
    ),
    Case("chain(add.si(1, 1), add.si(2, 2))", "tasks.add(1, 1) | add(2, 2)", 4),
    Case("chain(add.s(1, 1), const.si(), add.s(3))", "tasks.add(1, 1) | const() | add(3)", 10),
    Case("kw.s(1, a=2) | kw.s(b=3)", "tasks.kw(1, a=2) | kw(b=3)", [[[[1], {"a": 2}]], {"b": 3}]),
    Case("kw.si(1) | kw.si(2)", "tasks.kw(1) | kw(2)", [[2], {}]),
    Case("group(kw.s(1), kw.si(2))", "group((tasks.kw(1), kw(2)))", [[[1], {}], [[2], {}]]),
    Case("add.map([(1, 2), (3, 4)])", "[tasks.add(x) for x in [(1, 2), (3, 4)]]", Raises("TypeError")),
    Case("tsum.map([[1, 2], [3, 4]])", "[tasks.tsum(x) for x in [[1, 2], [3, 4]]]", [3, 7]),
    Case("tsum.map(range(3) for _ in range(2))", None, Raises("EncodeError")),
    Case("add.starmap([(1, 2), (3, 4)])", "[tasks.add(*x) for x in [(1, 2), (3, 4)]]", [3, 7]),
    Case("add.starmap(zip(range(3), range(3)))", None, [0, 2, 4]),
    Case("add.chunks(zip(range(5), range(5)), 2)", None, [[0, 2], [4, 6], [8]]),
    Case("add.chunks(zip(range(5), range(5)), 2).group()", None, [[0, 2], [4, 6], [8]]),
    Case("add.s(1, 1) | tsum.map([[1, 2]])", "tasks.add(1, 1) | [tsum(x) for x in [[1, 2]]]", [3]),
    Case("add.starmap([(1, 2)]) | tsum.s()", "[tasks.add(*x) for x in [(1, 2)]] | tasks.tsum()", 3),
    Case("add.chunks([(1, 1), (2, 2), (3, 3)], 2).group() | ident.s()", None, [[2, 4], [6]]),
    Case("chord(add.chunks([(1, 1), (2, 2), (3, 3)], 2).group(), ident.s())", None, [[2, 4], [6]]),
    Case("rep.s(add.s(3, 4))", "tasks.rep(tasks.add(3, 4))", 7),
    Case("rep.s(add.s(3, 4) | add.s(5))", "tasks.rep(tasks.add(3, 4) | add(5))", 12),
    Case("rep.s(group(add.s(1, 1), add.s(2, 2)))", "tasks.rep(group((tasks.add(1, 1), add(2, 2))))", [2, 4]),
    Case(
        "rep.s(add.s(1, 1) | group(add.s(1), add.s(2)))", "tasks.rep(tasks.add(1, 1) | group((add(1), add(2))))", [3, 4]
    ),
    Case("rep.s(chord([add.s(1, 1), add.s(2, 2)], tsum.s()))", "tasks.rep(%tasks.tsum([add(1, 1), add(2, 2)]))", 6),
    Case(
        "rep.s(chord([add.s(1, 1), add.s(2, 2)], tsum.s() | add.s(1)))",
        "tasks.rep(%(tasks.tsum([add(1, 1), add(2, 2)]) | add(1)))",
        7,
    ),
    Case("rep.s(chain())", None, Raises("ImproperlyConfigured")),
    Case("rep.s(rep.s(add.s(3, 4)))", "tasks.rep(tasks.rep(tasks.add(3, 4)))", 7),
    Case("rep.s(group(add.s(1, 1)))", "tasks.rep(group([tasks.add(1, 1)]))", [2]),
    Case("rep.s(group([]))", "tasks.rep(group(<empty>))", []),
    Case("rep.s(add.s(3, 4)) | add.s(1)", "tasks.rep(add(3, 4)) | add(1)", 8),
    Case(
        "rep.s(group(add.s(1, 1), add.s(2, 2))) | ident.s()",
        "tasks.rep(group((add(1, 1), add(2, 2)))) | ident()",
        [2, 4],
    ),
    Case(
        "rep.s(group(add.s(1, 1), add.s(2, 2))) | tsum.s() | add.s(1)",
        "tasks.rep(group((add(1, 1), add(2, 2)))) | tsum() | add(1)",
        7,
    ),
    Case("add.s(1, 1) | rep_with.s(add.s(2))", "tasks.add(1, 1) | rep_with(add(2))", 4),
    Case("group(rep.s(add.s(3, 4)), add.s(1, 1))", "group((tasks.rep(add(3, 4)), add(1, 1)))", [7, 2]),
    Case("chord([rep.s(add.s(3, 4)), add.s(1, 1)], ident.s())", "%tasks.ident([rep(add(3, 4)), add(1, 1)])", [7, 2]),
    Case(
        "chord([rep.s(group(add.s(3, 4), add.s(5, 5))), add.s(1, 1)], ident.s())",
        "%tasks.ident([rep(group((add(3, 4), add(5, 5)))), add(1, 1)])",
        [[7, 10], 2],
    ),
    Case(
        "chord([rep.s(chain(add.s(3, 4), add.s(1))), add.s(1, 1)], ident.s())",
        "%tasks.ident([rep(add(3, 4) | add(1)), add(1, 1)])",
        [8, 2],
    ),
    Case(
        "chord([rep.s(chord([add.s(3, 4)], ident.s())), add.s(1, 1)], ident.s())",
        "%tasks.ident([rep(%ident([add(3, 4)])), add(1, 1)])",
        [[7], 2],
    ),
    Case(
        "chord([rep.s(rep.s(group(add.s(3, 4), add.s(5, 5)))), add.s(1, 1)], ident.s())",
        "%tasks.ident([rep(rep(group((add(3, 4), add(5, 5))))), add(1, 1)])",
        [[7, 10], 2],
    ),
    Case("chord([add.s(1, 1)], rep_with.s(ident.s()))", "%tasks.rep_with([add(1, 1)], ident())", [2]),
    Case(
        "chain(add.s(1, 1), group(rep_with.s(add.s(1)), add.s(2)), ident.s())",
        "tasks.add(1, 1) | %ident((rep_with(add(1)), add(2)))",
        [3, 4],
    ),
    Case("chord([atc.s(1), atc.s(2)], tsum.s())", "%tasks.tsum([atc(1), atc(2)])", 206),
    Case("fail.s()", "tasks.fail()", Raises("ValueError")),
    Case("fail.s() | add.s(1)", "tasks.fail() | add(1)", Raises("ValueError")),
    Case("add.s(1, 1) | fail.s() | add.s(1)", "tasks.add(1, 1) | fail() | add(1)", Raises("ValueError")),
    Case("group(fail.s(), add.s(1, 1))", "group((tasks.fail(), add(1, 1)))", Raises("ValueError")),
    Case("chord([fail.s(), add.s(1, 1)], tsum.s())", "%tasks.tsum([fail(), add(1, 1)])", Raises("ValueError")),
    Case("chord([add.s(1, 1), add.s(2, 2)], fail.s())", "%tasks.fail([add(1, 1), add(2, 2)])", Raises("ValueError")),
    Case(
        "chord([add.s(1, 1), fail.s()], tsum.s() | add.s(1))",
        "%(tasks.tsum([add(1, 1), fail()]) | add(1))",
        Raises("ValueError"),
    ),
    Case(
        "chord([add.s(1, 1), fail.s()], group(tsum.s(), ident.s()))",
        "%celery.group([tasks.add(1, 1), tasks.fail()], tasks=(tasks.tsum(), tasks.ident()))",
        Raises("ValueError"),
    ),
    Case(
        "chord([chord([fail.s()], ident.s()), add.s(1, 1)], ident.s())",
        "%tasks.ident([%ident([fail()]), add(1, 1)])",
        Raises("ChordError"),
    ),
    Case(
        "chord([fail.s() | add.s(1), add.s(1, 1)], ident.s())",
        "%tasks.ident([fail() | add(1), add(1, 1)])",
        Raises("ValueError"),
    ),
    Case("chord([fail.s(), add.s(1, 1)], const.si())", "%tasks.const([fail(), add(1, 1)])", Raises("ValueError")),
    Case("rep.s(fail.s())", "tasks.rep(tasks.fail())", Raises("ValueError")),
    Case(
        "chord([rep.s(fail.s()), add.s(1,1)], ident.s())",
        "%tasks.ident([rep(fail()), add(1, 1)])",
        Raises("ValueError"),
    ),
    Case("signature('tasks.add', args=(2, 2))", "tasks.add(2, 2)", 4),
    Case("signature('tasks.add', args=(2, 2)) | signature('tasks.add', args=(3,))", "tasks.add(2, 2) | add(3)", 7),
    Case("signature(dict(group(add.s(1, 1), add.s(2, 2))))", "group((tasks.add(1, 1), add(2, 2)))", [2, 4]),
    Case(
        "signature(json.loads(json.dumps(chord([add.s(1, 1), add.s(2, 2)], tsum.s() | add.s(2)))))",
        "%(tasks.tsum([add(1, 1), add(2, 2)]) | add(2))",
        8,
    ),
    Case(
        "signature(json.loads(json.dumps(add.s(1, 1) | group(add.s(2), add.s(3)) | tsum.s())))",
        "tasks.add(1, 1) | %tsum([add(2), add(3)])",
        9,
    ),
    Case("signature(json.loads(json.dumps(add.starmap([(1, 2)]))))", None, [3]),
    Case("add.s(1).clone((2,))", "tasks.add(2, 1)", 3),
    Case("add.s(2, 2).replace(args=(5, 5))", "tasks.add(5, 5)", 10),
    Case("add.s(4).set(immutable=False, countdown=0).clone((1,))", "tasks.add(1, 4)", 5),
    Case("add.subtask((1, 2))", "tasks.add(1, 2)", 3),
    Case("add.signature((1,), {'y': 5})", "tasks.add(1, y=5)", 6),
    Case("add.s(1, 2).set(task_id='x1')", "tasks.add(1, 2)", 3),
    Case("reduce(or_, [add.s(1) for _ in range(4)])", "tasks.add(1) | add(1) | add(1) | add(1)", Raises("TypeError")),
    Case(
        "ident.s(add.s(1, 1))",
        "tasks.ident(tasks.add(1, 1))",
        {"task": "tasks.add", "args": [1, 1], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False},
    ),
)

IN_ORDER = (
    # Celery reverses the order of the groups that it unrolls in a header: [4, 2, 6] and so on.
    Case("chord([group(add.s(1, 1), add.s(2, 2)), add.s(3, 3)], ident.s())", None, [2, 4, 6]),
    Case("chord([group(add.s(1, 1), group(add.s(2, 2), add.s(4, 4))), add.s(3, 3)], ident.s())", None, [2, 4, 8, 6]),
    Case("chain(add.s(1, 1), group(group(add.s(1), add.s(2)), add.s(3)))", None, [3, 4, 5]),
    Case("chain(add.s(1, 1), group(group(add.s(1), add.s(2)), add.s(3)), ident.s())", None, [3, 4, 5]),
    # Celery takes an empty group for a chord's header here, and the next call fails with `[] + 3`.
    Case("add.s(1, 1) | group() | add.s(3)", None, 5),
)
"""Where the result differs from Celery's, on purpose."""
