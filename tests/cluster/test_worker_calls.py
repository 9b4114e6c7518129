"""What a worker process keeps while it runs tasks, and when it lets go of it."""

from collections.abc import Iterator

import pytest

from tests.helpers_jpeg_slides import JpegSlide, write_jpeg_slide
from wsi_extract.cluster.worker_calls import SlidesPlugin
from wsi_extract.model import SlideInfo


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> SlideInfo:
    return write_jpeg_slide(tmp_path_factory.mktemp("slide") / "s.svs", JpegSlide(width_px=300, height_px=300))


@pytest.fixture
def plugin() -> Iterator[SlidesPlugin]:
    plugin = SlidesPlugin(name="slides", task_timeout_s=900)
    plugin.setup(worker=None)
    yield plugin
    plugin.teardown(worker=None)


def test_slides_are_closed_in_the_end_but_not_while_a_task_reads_them(slide: SlideInfo, plugin: SlidesPlugin) -> None:
    """A worker is told to end in one thread while its task goes on in another: OpenSlide would abort the process."""
    with plugin.at_work():
        opened = plugin.slides.get(slide)
        plugin.teardown(worker=None)
        assert plugin.slides.get(slide) is opened
        assert opened.read_region(0, x_l0=0, y_l0=0, w_lv_px=8, h_lv_px=8).shape == (8, 8, 3)
    plugin.teardown(worker=None)
    with plugin.at_work():
        assert plugin.slides.get(slide) is not opened
