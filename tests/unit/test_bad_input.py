"""Bad input is refused with an error that says what was wrong and where; nothing of it stays in the index."""

import numpy as np
import pytest

import constann

GOOD = np.ones((5, 3), np.float32)


@pytest.mark.parametrize("kind", ["exact", "forest", "graph"])
@pytest.mark.parametrize(
    ("value", "word"),
    [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")],
    ids=["nan", "inf", "-inf"],
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_bad_numbers_are_named_by_row_and_column(kind: str, value: float, word: str, dtype: str) -> None:
    rows = np.ones((40, 3), dtype)
    rows[[17, 30], 2] = value
    with pytest.raises(ValueError, match=f"row 17, column 2 is {word}"):
        constann.build(rows, kind=kind)
    index = constann.build(GOOD, kind=kind)
    with pytest.raises(ValueError, match=f"row 17, column 2 is {word}"):
        index.search(rows)


def test_a_float64_that_overflows_float32_is_refused() -> None:
    rows = np.ones((4, 3))
    rows[2, 1] = -1e39
    with pytest.raises(ValueError, match="row 2, column 1 is too large for float32"):
        constann.build(rows, kind="exact")


def test_a_refused_add_leaves_nothing_behind() -> None:
    index = constann.Exact(3, "cosine")
    index.add(GOOD)
    with pytest.raises(ValueError, match="row 1"):
        index.add(np.array([[1, 1, 1], [1, np.nan, 1]], np.float32))
    assert len(index) == 5
    index.build()
    assert index.fingerprint == constann.build(GOOD, "cosine", kind="exact").fingerprint


@pytest.mark.parametrize(
    "dtype", ["int32", "int64", "uint32", "bool", "complex64", "object", "U3", ">f4", "longdouble"]
)
def test_other_dtypes_are_type_errors(dtype: str) -> None:
    with pytest.raises(TypeError, match="accepted are float16, float32, float64, int8, uint8, int16 and uint16"):
        constann.build(np.ones((2, 3)).astype(dtype), kind="exact")
    with pytest.raises(TypeError, match="queries have dtype"):
        constann.build(GOOD, kind="exact").search(np.ones((2, 3)).astype(dtype))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 1)])
def test_vectors_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        constann.build(np.ones(shape, np.float32), kind="exact")
    with pytest.raises(ValueError, match="shape"):
        constann.Exact(3, "cosine").add(np.ones(shape, np.float32))


def test_a_wrong_dim_is_named() -> None:
    index = constann.build(GOOD, kind="exact")
    with pytest.raises(ValueError, match="queries have dim 4, the index has dim 3"):
        index.search(np.ones((1, 4), np.float32))
    with pytest.raises(ValueError, match="vectors have dim 2, the index has dim 3"):
        constann.Forest(3, "cosine").add(np.ones((1, 2), np.float32))


@pytest.mark.parametrize("dim", [0, -1, 65_537])
def test_an_impossible_dim_is_refused(dim: int) -> None:
    with pytest.raises(ValueError, match="dim must be"):
        constann.Exact(dim, "cosine")


@pytest.mark.parametrize("kind", ["exact", "forest", "graph"])
def test_an_empty_index_cannot_be_built(kind: str) -> None:
    with pytest.raises(ValueError, match=r"holds no vectors: add\(\) some"):
        constann.build(np.ones((0, 3), np.float32), kind=kind)
    with pytest.raises(ValueError, match="dim must be"):
        constann.build(np.ones((3, 0), np.float32), kind=kind)


def test_no_queries_give_no_answers() -> None:
    ids, distances = constann.build(GOOD, kind="exact").search(np.ones((0, 3), np.float32), k=4)
    assert ids.shape == distances.shape == (0, 4)


@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be 1 to [0-9]+, not {k}"):
        constann.build(GOOD, kind="exact").search(GOOD, k)


def test_k_that_is_no_integer_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="k must be an integer, not float"):
        constann.build(GOOD, kind="exact").search(GOOD, 2.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["search", "save", "fingerprint"])
def test_an_unbuilt_index_says_so(method: str, tmp_path: object) -> None:
    index = constann.Forest(3, "cosine")
    index.add(GOOD)
    with pytest.raises(ValueError, match=r"not built: call build\(\) first"):
        if method == "fingerprint":
            _ = index.fingerprint
        else:
            getattr(index, method)(GOOD if method == "search" else f"{tmp_path}/x")


def test_a_built_index_takes_no_more_rows_and_is_not_built_twice() -> None:
    index = constann.build(GOOD, kind="forest")
    with pytest.raises(ValueError, match="is built"):
        index.add(GOOD)
    with pytest.raises(ValueError, match="is built already"):
        index.build()


def test_wrong_names_and_numbers_are_explained() -> None:
    with pytest.raises(
        ValueError, match="no metric 'cosinus': use 'cosine', 'euclidean', 'manhattan', 'dot' or 'hamming'"
    ):
        constann.build(GOOD, "cosinus", kind="exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no index kind 'tree': use 'graph', 'forest' or 'exact'"):
        constann.build(GOOD, kind="tree")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="trees must be"):
        constann.Forest(3, "cosine", trees=0)
    with pytest.raises(ValueError, match="threads must be 1 to"):
        constann.build(GOOD, kind="forest", threads=0)
    with pytest.raises(ValueError, match="seed must be 0 to"):
        constann.build(GOOD, kind="forest", seed=-1)
    with pytest.raises(ValueError, match="seed must be 0 to"):
        constann.build(GOOD, kind="forest", seed=2**64)
    with pytest.raises(ValueError, match="looks at every row: leave effort out"):
        constann.build(GOOD, kind="exact").search(GOOD, effort=10)
    with pytest.raises(TypeError, match="queries have dtype object"):
        constann.build(GOOD, kind="exact").search(object())  # type: ignore[arg-type]


def test_what_numpy_says_of_an_object_is_passed_on() -> None:
    class OnTheGpu:
        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise RuntimeError("the tensor is on the GPU: call .cpu()")

    index = constann.build(GOOD, kind="exact")
    for refused in (lambda: index.search(OnTheGpu()), lambda: constann.build(OnTheGpu(), kind="exact")):
        with pytest.raises(RuntimeError, match="on the GPU"):
            refused()
    with pytest.raises(TypeError, match="masked array"):
        constann.build(np.ma.masked_less(GOOD, 0), kind="exact")


def test_a_call_from_the_progress_callback_is_refused_and_does_not_wait_for_itself() -> None:
    index = constann.Forest(3, "cosine")
    index.add(GOOD)
    refusals = []

    def progress(done: int, total: int) -> None:
        for change in (index.build, lambda: index.add(GOOD)):
            with pytest.raises(ValueError, match="being changed by another call"):
                change()
            refusals.append((done, total))

    index.build(progress=progress)
    assert refusals
    assert len(index) == 5


@pytest.mark.parametrize("kind", [constann.Exact, constann.Forest, constann.Graph])
def test_an_index_whose_init_failed_says_so_whatever_it_is_asked(kind: type[constann.Index]) -> None:
    """A debugger shows such objects."""
    index = kind.__new__(kind)
    for use in (lambda: repr(index), lambda: len(index), lambda: index.search(GOOD), lambda: index.add(GOOD)):
        with pytest.raises(TypeError, match=f"{kind.__name__} was not initialised"):
            use()
    with pytest.raises(ValueError, match="no metric 'angular'"):
        index.__init__(3, "angular")  # type: ignore[misc, arg-type]
    with pytest.raises(TypeError, match="was not initialised"):
        repr(index)
    index.__init__(3, "cosine")  # type: ignore[misc]
    assert len(index) == 0
