"""What work under way says of the members it needs."""

from zoo_ray.claims import Claims


def test_an_older_claim_does_not_come_after_a_newer_one(store):
    claims = Claims(store, folder="runs/a")
    claims.make({"1", "2"})
    claims.make({"1"})  # its thread was slow
    assert sorted(store.read_wanted("runs/a")) == ["1", "2"]
    assert not claims.are_due(2)
    assert claims.are_due(3)
