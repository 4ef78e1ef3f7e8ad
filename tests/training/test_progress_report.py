import sys
from types import SimpleNamespace

import torch

from m2f.training.progress_report import ProgressReport
from m2f.training.training_log import read_rows


def report_in(folder, is_main=True, step=0) -> ProgressReport:
    logged = []
    accelerator = SimpleNamespace(
        is_main_process=is_main,
        device=torch.device("cpu"),
        log=lambda values, step: logged.append((step, values)),
        end_training=lambda: logged.append("end"),
    )
    report = ProgressReport(accelerator, folder, step, max_steps=10, evaluated_step=0, images_per_step=8)
    report.logged = logged
    return report


MEANS = {"loss": 3.0, "gradient_norm": 1.0, "loss_ce": 0.5, "loss_mask": 0.25, "loss_dice": 0.125, "loss_ce_0": 9.0}


def test_a_line_has_terms_rate_speed_memory_and_time_left(tmp_path, monkeypatch, capsys):
    """Two steps of half a second for 8 images each, of which 8 steps are left; time between steps does not count."""
    times = iter([0.0, 0.5, 100.0, 100.5])
    monkeypatch.setattr("m2f.training.progress_report.time.monotonic", lambda: next(times))
    report = report_in(tmp_path)
    for _ in range(2):
        report.begin_step()
        report.end_step()
    report.losses(2, MEANS, {"learning_rate": 1e-4, "skipped": 0})
    text = capsys.readouterr().err
    assert "step 2/10  loss 3  loss_ce 0.5  loss_mask 0.25  loss_dice 0.125  learning_rate 0.0001  images/s 16" in text
    assert "memory" in text and text.rstrip().endswith("left 0:00:04")
    (row,) = read_rows(tmp_path / "log.csv")
    assert (row["step"], row["images_per_second"], row["loss_ce_0"]) == ("2", "16.0", "9.0")
    assert 0.1 < float(row["memory_gib"]) < 1000
    assert report.logged[0][0] == 2 and report.logged[0][1]["loss"] == 3.0
    assert "step" not in report.logged[0][1]


def test_steps_without_a_loss_have_a_row_too(tmp_path):
    report = report_in(tmp_path)
    report.losses(1, MEANS, {"skipped": 0})
    report.losses(2, {}, {"skipped": 1})
    assert [row["loss"] for row in read_rows(tmp_path / "log.csv")] == ["3.0", "nan"]
    assert read_rows(tmp_path / "log.csv")[1]["loss_ce"] == ""


def test_an_evaluation_has_a_row_a_line_and_a_curve(tmp_path, capsys):
    report = report_in(tmp_path)
    report.losses(1, MEANS, {"learning_rate": 1e-4})
    report.evaluation(1, {"AP": 0.25, "AP50": 0.5, "AP75": 0.1, "APs": 0.0, "APm": 0.75})
    assert "evaluation after step 1: AP 0.2500, AP50 0.5000, AP75 0.1000, APs 0.0000\n" in capsys.readouterr().err
    assert read_rows(tmp_path / "evaluations.csv") == [
        {"step": "1", "AP": "0.25", "AP50": "0.5", "AP75": "0.1", "APs": "0.0", "APm": "0.75"}
    ]
    step, logged = report.logged[-1]
    assert step == 1 and logged["eval_AP"] == 0.25 and len(logged) == 5
    report.draw("AP")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_other_processes_write_nothing(tmp_path, capsys):
    report = report_in(tmp_path, is_main=False)
    report.begin_step()
    report.end_step()
    report.say("a line")
    report.losses(1, MEANS, {})
    report.evaluation(1, {"AP": 0.25})
    report.draw("AP")
    report.close()
    assert capsys.readouterr().err == "" and not list(tmp_path.iterdir())


def test_at_a_terminal_there_is_a_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    report = report_in(tmp_path, step=4)
    report.begin_step()
    report.end_step()
    report.losses(5, MEANS, {"learning_rate": 1e-4})
    report.close()
    text = capsys.readouterr().err
    assert "5/10" in text and "loss=3" in text and "images/s=" in text and "memory=" in text
    assert report.logged[-1] == "end"
