"""The paper's tables agree with themselves, but for the slips that are listed, and with the benchmarks' files."""

import pytest

from sama_video.evaluation.benchmark import find_benchmark
from sama_video.evaluation.published import published_table

ABLATIONS = ("table_5", "table_6")
TABLES = ("table_2", "table_3", "table_4", *ABLATIONS)


def rows(name):
    """(task, system, {column: cell}) of every printed row with cells."""
    table = published_table(name)
    for task, systems in table.tasks.items():
        for system, cells in systems.items():
            if None not in cells:
                yield task, system, dict(zip(table.columns, cells, strict=True))


def slips(name):
    return {(slip.task, slip.system): set(slip.columns) for slip in published_table(name).slips}


def test_every_row_of_table_4_gives_its_overall_score():
    assert len(list(rows("table_4"))) == 23
    for task, system, row in rows("table_4"):
        mean = (row["S_EA"] + row["S_VN"] + row["S_VQ"]) / 3
        assert row["S"] == pytest.approx(mean, abs=0.01), (task, system)


BLOCKS = {"S_EA": ("SA", "SP", "CP"), "S_VN": ("AN", "SN", "MN"), "S_VQ": ("VF", "TS", "ES")}


def test_block_scores_of_table_4_are_means_of_geometric_means_but_for_the_two_swapped_rows():
    """Such a mean never exceeds the geometric mean of the dimensions' means (Hoelder), up to the cells' rounding."""
    impossible = set()
    for task, system, row in rows("table_4"):
        for block, (a, b, c) in BLOCKS.items():
            if row[block] > (row[a] * row[b] * row[c]) ** (1 / 3) + 0.01:
                impossible.add((task, system))
    assert impossible == set(slips("table_4")) == {("remove", "VACE"), ("style", "Lucy-Edit")}


def test_swapping_the_slips_of_table_4_back_makes_them_possible():
    for task, system, row in rows("table_4"):
        if (task, system) in slips("table_4"):
            row["S_VN"], row["S_VQ"] = row["S_VQ"], row["S_VN"]
            for block, (a, b, c) in BLOCKS.items():
                assert row[block] <= (row[a] * row[b] * row[c]) ** (1 / 3) + 0.01


def test_averages_of_table_2_are_their_rows_means_but_for_one_slip():
    wrong = {}
    for task, system, row in rows("table_2"):
        mean = (row["Instruct follow"] + row["Preservation"] + row["Quality"]) / 3
        if row["Avg."] != pytest.approx(mean, abs=0.005):
            wrong[task, system] = {"Avg."}
    assert wrong == slips("table_2") == {("add", "Omni-Video"): {"Avg."}}


@pytest.mark.parametrize("name", ABLATIONS)
def test_overall_scores_of_the_ablations_are_their_rows_means(name):
    assert len(list(rows(name))) == {"table_5": 4, "table_6": 2}[name]
    for _, system, row in rows(name):
        mean = (row["Instruct follow"] + row["Preservation"] + row["Quality"]) / 3
        assert row["Overall"] == pytest.approx(mean, abs=0.001), system


def test_the_gains_are_those_that_the_text_speaks_of():
    """Section 4.4: 0.399 by Motion Alignment alone, 0.783 by both."""
    overall = {system: row["Overall"] for _, system, row in rows("table_5")}
    assert overall["w/ MA"] - overall["baseline"] == pytest.approx(0.399)
    assert overall["SAMA"] - overall["baseline"] == pytest.approx(0.783)


def test_table_3_has_ten_systems_in_seven_tasks():
    table = published_table("table_3")
    assert len(table.tasks) == 7
    assert len(table.systems) == 10
    assert all(list(systems) == table.systems for systems in table.tasks.values())
    assert table.parameters.keys() == set(table.systems) - table.closed == set(table.systems) - {"Runway"}


@pytest.mark.parametrize("name", TABLES)
def test_cells_lie_on_the_benchmarks_scale_and_tasks_and_columns_are_the_benchmarks(name):
    table = published_table(name)
    benchmark = find_benchmark(table.benchmark)
    assert name in benchmark.published
    assert (name in ABLATIONS) == bool(table.about)
    for task, system, row in rows(name):
        assert all(benchmark.scale[0] <= cell <= benchmark.scale[1] for cell in row.values()), (task, system)
        if name not in ABLATIONS:
            assert benchmark.published[0] == name
            assert benchmark.task(task).columns[-len(table.columns) :] == table.columns


def test_closed_systems_are_those_that_print_shades():
    assert published_table("table_2").closed == {"Kling1.6", "Kling-Omni", "Runway", "Pika", "MiniMax"}
    assert all(published_table(name).closed <= set(published_table(name).systems) for name in TABLES)
    assert "SAMA" in published_table("table_4").systems
