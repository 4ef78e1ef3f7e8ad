from written_scenes import write_scenes


def test_numbers(tmp_path):
    """Areas by hand: 8 x 8 but for the rounded corner (the others are at the image's border), 32 x 64 but for four."""
    _, summary = write_scenes(tmp_path)
    assert summary.failed == [("/in/broken.png", "a <script> of a message")]
    assert [(row.label, row.objects, row.images, row.median_area) for row in summary.classes] == [
        ("cell", 2, 2, 63),
        ("<b>vessel</b>", 1, 1, 2044),
    ]
    assert [row.objects for row in summary.images] == [1, 2, 0]
    assert summary.images[1].covered == (63 + 2044) / (64 * 96)
    assert summary.bins[0] == (32, 63) and summary.bins[-1] == (1024, 2047) and len(summary.bins) == 6
    assert [row.histogram for row in summary.classes] == [[2, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]
