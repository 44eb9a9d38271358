import numpy as np
import pytest

from medseg3d.volume import AxisMap, Grid, Volume, placed

OBLIQUE = np.array([[0.8, -0.6, 0, 10], [0.6, 0.8, 0, -5], [0, 0, 1, 3], [0, 0, 0, 1.0]])


def test_spacing_is_the_length_of_the_columns():
    grid = Grid((4, 5, 6), OBLIQUE @ np.diag([2, 3, 4, 1.0]))
    assert grid.spacing_mm == pytest.approx((2, 3, 4))
    assert grid.shear == pytest.approx(0, abs=1e-12)


def test_shear_is_the_cosine_between_axes():
    affine = np.eye(4)
    affine[:3, 1] = (1, 1, 0)  # 45 degrees to x
    assert Grid((2, 2, 2), affine).shear == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASR", "PIR", "IRP", "SAL"])
def test_axcodes_and_canonical_order(codes):
    directions = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, code in enumerate(codes):
        world, sign = directions[code]
        affine[world, axis] = sign * (axis + 1)
    data = np.arange(2 * 3 * 4).reshape(1, 2, 3, 4)
    volume = Volume(data, affine)
    assert "".join(volume.axcodes) == codes
    canonical = volume.canonical()
    assert canonical.axcodes == ("R", "A", "S")
    for index in [(0, 0, 0), (1, 2, 3), (1, 0, 2)]:  # the same value at the same place
        world = affine @ (*index, 1)
        there = np.rint(np.linalg.inv(canonical.affine) @ world)[:3].astype(int)
        assert canonical.data[(0, *there)] == data[(0, *index)]


def test_canonical_order_of_a_2d_grid():
    volume = Volume(np.array([[[1, 2], [3, 4], [5, 6]]]), np.array([[0, -1, 0], [2.0, 0, 0], [0, 0, 1]]))
    assert volume.axcodes == ("A", "L")
    assert volume.canonical().data.tolist() == [[[2, 4, 6], [1, 3, 5]]]


def test_axis_map_and_its_inverse():
    axis_map = AxisMap((2, 0, 1), (5.0, 0.0, 1.0), (-1.0, 2.0, 0.5))
    assert axis_map.coordinates(0, 3).tolist() == [5, 4, 3]
    assert np.allclose(axis_map.matrix() @ axis_map.inverse().matrix(), np.eye(4))
    # target (1, 2, 3) lies at 5 - 1 on source axis 2, at 4 on axis 0 and at 1 + 1.5 on axis 1
    assert (axis_map.matrix() @ (1, 2, 3, 1)).tolist() == [4, 2.5, 4, 1]


def test_grids_differ_in_size_direction_and_place():
    grid = Grid((10, 10, 10), np.diag([1, 1, 2, 1.0]))
    assert grid.differs_from(Grid((10, 10, 10), grid.affine)) is None
    assert "size" in grid.differs_from(Grid((10, 10, 9), grid.affine))
    flipped = grid.affine @ np.diag([-1, 1, 1, 1.0])
    assert "LAS" in grid.differs_from(Grid((10, 10, 10), flipped))
    moved = grid.affine.copy()
    moved[0, 3] = 0.09
    assert grid.differs_from(Grid((10, 10, 10), moved)) is None
    moved[0, 3] = 0.2
    assert grid.differs_from(Grid((10, 10, 10), moved)) == "corners 0.2 mm apart"
    stretched = np.diag([1.1, 1, 2, 1.0])
    assert "corners 0.9" in grid.differs_from(Grid((10, 10, 10), stretched))


@pytest.mark.parametrize("data, affine", [(np.zeros((1, 2, 2, 2)), np.eye(3)), (np.zeros((2, 2)), np.eye(3))])
def test_wrong_shapes_are_refused(data, affine):
    with pytest.raises(ValueError, match="shape"):
        Volume(data, affine)


def test_other_data_keep_grid_and_header():
    volume = Volume(np.zeros((2, 3, 4)), np.eye(3), {"sform_code": 4})
    assert volume.with_data(np.ones((1, 3, 4))).header == {"sform_code": 4}
    with pytest.raises(ValueError, match=r"\(3, 5\)"):
        volume.with_data(np.ones((1, 3, 5)))


def test_repr_says_what_it_is():
    volume = Volume(np.zeros((1, 128, 128, 64), np.float32), np.diag([-1, -1, 2.5, 1.0]))
    assert repr(volume) == "Volume(1 x 128 x 128 x 64 float32, 1 x 1 x 2.5 mm, LPS, 4.0 MiB)"


def test_a_part_in_another_axis_order_falls_back_on_its_grid():
    grid = Grid((4, 5, 6), OBLIQUE @ np.diag([2, 3, 4, 1.0]))
    full = Volume(np.arange(1, 121).reshape(1, 4, 5, 6), grid.affine)
    turn = np.array([[0, 0, 1, 0], [-1, 0, 0, 4], [0, 1, 0, 0], [0, 0, 0, 1.0]])  # axes (y reversed, z, x)
    turned = Volume(full.data.transpose(0, 2, 3, 1)[:, ::-1], grid.affine @ turn)
    back = placed(turned, grid)
    assert (back.data == full.data).all()
    assert (back.affine == grid.affine).all()
    shift = np.eye(4)
    shift[:3, 3] = (1, 2, 3)
    part = placed(Volume(turned.data[:, 1:3, 2:, 3:], turned.affine @ shift), grid)
    assert (part.data[:, 3:, 2:4, 2:] == full.data[:, 3:, 2:4, 2:]).all()
    assert np.count_nonzero(part.data) == 1 * 2 * 4


def test_zeros_alone_are_cut_off():
    data = np.zeros((1, 4, 4, 4), np.uint8)
    data[0, 1, 1, 1] = 7
    smaller = Grid((2, 2, 2), np.eye(4))
    assert placed(Volume(data, np.eye(4)), smaller).data[0, 1, 1, 1] == 7
    data[0, 3, 3, 3] = 8
    with pytest.raises(ValueError, match=r"^1 voxels that are not 0"):
        placed(Volume(data, np.eye(4)), smaller)
    far = np.eye(4)
    far[:3, 3] = (100, -100, 100)
    with pytest.raises(ValueError, match=r"^2 voxels"):
        placed(Volume(data, far), smaller)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.diag([1.05, 1, 1, 1]), "up to 0.15 voxels beside"),
        (np.array([[1, 0, 0, 0.4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "up to 0.4 voxels beside"),
        (OBLIQUE, "beside"),
        (np.eye(3), "2 axes against 3"),
    ],
)
def test_other_lattices_are_refused(matrix, words):
    data = np.ones((1, *(4,) * (len(matrix) - 1)))
    with pytest.raises(ValueError, match=words):
        placed(Volume(data, matrix), Grid((4, 4, 4), np.eye(4)))
