"""A printed number links to the runs that it comes from."""

import re
import shutil

import pandas as pd
import pytest

from dedt_lib.book import comparisons, grid, results, runs, tables


@pytest.fixture(scope="module")
def frame():
    """The committed results of profile digits."""
    return results.read_cells("digits")


def links(html):
    return set(re.findall(r"href='#([^']+)'", html))


def targets(html):
    return set(re.findall(r"id='([^']+)'", html))


def test_each_number_of_a_table_leads_to_its_runs(frame):
    table = tables.layout(frame, "table1")
    shown, listed = runs.linked(table, "table1").data, runs.behind(frame, "table1").data
    assert len(re.findall("href=", shown)) == (table != "–").to_numpy().sum()
    assert links(shown) <= targets(listed)
    entry = table.loc[grid.LABELS["moderate"], "10 %"]
    assert f"<a href='#run-moderate-10'>{entry}</a>" in shown


def test_tables_by_row_and_ratio_and_of_comparisons_lead_there_too(frame):
    page = comparisons.Page(frame, [("moderate", "random")])
    assert links(runs.linked(page.shown(), page.rows).data) == {f"run-moderate-{r}" for r in (10, 20, 40)}
    several = tables.metrics(frame[frame.ratio == 0.1], ["random"], ["fid", "worst"])
    assert links(runs.linked(several, ["random"]).data) == {"run-random-10"}


def test_a_line_has_seeds_dates_commits_and_a_command_that_works(frame, tmp_path):
    own = frame[(frame.row == "moderate") & (frame.ratio == 0.1)]
    shown = runs.behind(own, ["moderate"]).data
    for seed, fid in zip(own.seed, own.fid):
        assert f"{seed}: {fid:.4f}" in shown
    assert own.result.iloc[0]["provenance"]["date"] in shown
    assert "dedt run table1 --row moderate --ratio 0.1 --seed 0 --profile digits" in shown


def test_the_command_names_an_own_profile_by_its_file(tmp_path):
    (tmp_path / "mine.toml").write_text('extends = "digits"')
    shutil.copytree(results.results_folder("digits"), tmp_path / "mine")
    cells = tmp_path / "mine" / "cells.jsonl"
    cells.write_text(cells.read_text().replace('"profile":"digits"', '"profile":"mine"'))
    own = results.read_cells(tmp_path / "mine.toml", root=tmp_path)
    assert f"--profile {tmp_path / 'mine.toml'}" in runs.behind(own, ["moderate"]).data


def test_the_command_names_a_table_that_has_the_cell():
    cells = grid.all_cells("digits")
    for cell in cells:
        table = grid.command(cell, "digits").split()[2]
        assert cell in grid.cells(table, "digits")


def test_paper_columns_and_dashes_lead_nowhere_and_labels_are_escaped(monkeypatch):
    monkeypatch.setitem(grid.LABELS, "random", "<b>random")
    table = pd.DataFrame({"10 %": ["–"], "CIFAR-10, 10 %": ["8.12"]}, ["<b>random"])
    shown = runs.linked(table, ["random"]).data
    assert "href" not in shown
    assert "&lt;b&gt;random" in shown
