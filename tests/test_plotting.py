import json

import pytest
import torch
from PIL import Image

from sde_diffusion import plotting


def test_a_picture_shows_every_image_in_its_place_with_minus_one_black_and_one_white(tmp_path):
    images = torch.full((5, 1, 2, 3), -1.0)
    images[1] = 1
    plotting.picture(images, tmp_path / "x.png")
    picture = Image.open(tmp_path / "x.png")
    zoom = plotting.ZOOM
    assert picture.size == (13 * zoom, 7 * zoom)  # three columns of 3 pixels and two rows of 2, with gaps of one
    assert picture.getpixel((zoom, zoom)) == 0
    assert picture.getpixel((5 * zoom, zoom)) == 255


def test_values_outside_the_range_are_clipped_and_colours_kept(tmp_path):
    image = torch.tensor([9.0, -9.0, 0.0]).reshape(1, 3, 1, 1)
    assert plotting.tile(image).getpixel((plotting.ZOOM, plotting.ZOOM)) == (255, 0, 128)


def test_a_film_has_a_frame_per_state_and_rests_on_the_last(tmp_path):
    plotting.film(torch.linspace(-1, 1, 5)[:, None, None, None, None].expand(5, 4, 1, 8, 8), tmp_path / "x.gif")
    film = Image.open(tmp_path / "x.gif")
    assert film.n_frames == 5
    film.seek(4)
    assert film.info["duration"] == plotting.PAUSE


def test_points_are_scattered_and_losses_drawn(tmp_path):
    plotting.picture(torch.zeros(3, 2), tmp_path / "x.png", reference=torch.ones(4, 2))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps({"step": k, "loss": 1 / k}) + "\n" for k in (1, 2, 3)))
    plotting.loss_curve(tmp_path / "log.jsonl", tmp_path / "loss.png")
    assert Image.open(tmp_path / "x.png").width > 100
    assert Image.open(tmp_path / "loss.png").width > 100


def test_data_without_a_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match="npz"):
        plotting.picture(torch.zeros(2, 5), tmp_path / "x.png")
    with pytest.raises(ValueError, match="1 or 3 channels"):
        plotting.picture(torch.zeros(2, 2, 8, 8), tmp_path / "x.png")
