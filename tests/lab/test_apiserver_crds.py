"""The real API server takes our CRDs."""

from apiserver_world import World


def test_crds_apply():
    import time

    t = time.time()
    with World() as world:
        print("up", time.time() - t)
        world.install_crds()
        print("crds", time.time() - t)
        print(world.kubectl("explain", "ippool.spec"))
