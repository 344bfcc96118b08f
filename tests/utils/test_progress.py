from data_plugin.utils.progress import progress_over


def test_a_log_file_gets_lines(monkeypatch, capsys):
    monkeypatch.setattr("data_plugin.utils.progress.LOGGED_EVERY", 0.0)
    with progress_over(10, "images") as advance:
        advance(4)
        advance(6)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("4 of 10 images, 0:00:00 spent, about 0:00:0")
    assert last.startswith("10 of 10 images")
