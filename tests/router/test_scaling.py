"""Scaling equals scikit-learn's standard deviation and inverse document frequency."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.preprocessing import StandardScaler, normalize

from compress.errors import InputError
from router.scaling import Scaling, unit
from tests.router import blobs


def test_dense_features_are_divided_by_deviation_and_root_of_width() -> None:
    features, _ = blobs.dense(3)
    reference = StandardScaler(with_mean=False).fit(features.astype(np.float64))
    found = Scaling.fit(features).apply(features)
    assert found.dtype == np.float32
    expected = reference.transform(features.astype(np.float64)) / np.sqrt(blobs.WIDTH)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_centred_rows_have_about_unit_length() -> None:
    generator = np.random.default_rng(0)
    features = (50 + 7 * generator.normal(size=(400, 256))).astype(np.float32)
    x = Scaling.fit(features).apply(features)
    assert np.linalg.norm(x - x.mean(0), axis=1) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("value", [0.0, 7.25, 1e6, -1e-6])
def test_rounding_of_a_feature_that_never_moved_is_not_blown_up(value: float) -> None:
    features, _ = blobs.dense(2)
    features[:, 4] = value
    if value:
        features[::2, 4] = np.nextafter(np.float32(value), np.float32(2 * value))
    scaling = Scaling.fit(features)
    assert scaling.weight[4] == pytest.approx(1 / np.sqrt(blobs.WIDTH))


def test_a_single_row_is_scaled_by_one() -> None:
    row = np.arange(4, dtype=np.float32)[None]
    np.testing.assert_array_equal(Scaling.fit(row).apply(row), row / 2)


def test_sparse_features_get_scikit_learns_smooth_idf_and_unit_length() -> None:
    counts, _ = blobs.sparse_counts(3)
    scaling = Scaling.fit(counts)
    documents = (counts.toarray() > 0).sum(0)
    assert scaling.columns is not None and scaling.columns.dtype == np.int32
    assert scaling.columns.tolist() == np.flatnonzero(documents >= 2).tolist()
    assert 0 < len(scaling.columns) < counts.shape[1]
    kept = counts[:, scaling.columns]
    found = scaling.apply(counts)
    assert sparse.issparse(found) and found.dtype == np.float32
    expected = TfidfTransformer(norm="l2", smooth_idf=True).fit_transform(kept.astype(np.float64))
    np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-6)


def test_n_grams_of_a_single_prompt_count_where_there_are_no_others() -> None:
    counts = sparse.csr_matrix(np.eye(3, 6, dtype=np.float32))
    scaling = Scaling.fit(counts)
    assert scaling.columns is not None and scaling.columns.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(scaling.apply(counts).toarray(), np.eye(3))


def test_a_prompt_of_unseen_n_grams_is_a_row_of_zeros() -> None:
    scaling = Scaling.fit(sparse.csr_matrix(np.array([[1, 1, 0], [1, 1, 0]], dtype=np.float32)))
    found = scaling.apply(sparse.csr_matrix(np.array([[0, 0, 3], [0, 2, 3]], dtype=np.float32)))
    np.testing.assert_array_equal(found.toarray(), [[0, 0], [0, 1]])


def test_another_width_is_refused() -> None:
    features, _ = blobs.dense(2)
    scaling = Scaling.fit(features)
    for other in (features[:, :5], np.zeros((1, 13), dtype=np.float32), blobs.sparse_counts(2)[0]):
        with pytest.raises(InputError, match=rf"features of size 12, this model's have {other.shape[1]}"):
            scaling.apply(other)


def test_what_was_given_is_not_changed() -> None:
    for features in (blobs.dense(2)[0], blobs.sparse_counts(2)[0]):
        before = features.copy()
        Scaling.fit(features).apply(features)
        assert abs(features - before).max() == 0


@pytest.mark.parametrize("kind", blobs.MAKERS)
def test_rows_of_unit_length_equal_scikit_learns(kind: str) -> None:
    features, _ = blobs.MAKERS[kind](2)
    for factor in (1e-3, 1, 1e3):
        rows = (features * factor).astype(np.float32)
        before, found = rows.copy(), unit(rows)
        assert found.dtype == np.float32 and sparse.issparse(found) == sparse.issparse(rows)
        assert abs(found - normalize(rows)).max() < 1e-6 and abs(rows - before).max() == 0
    assert abs(unit(0 * features)).max() == 0 and unit(features[:0]).shape == (0, features.shape[1])
