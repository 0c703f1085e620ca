# podroute's image: one for operator, agent and speaker. `docker build -t podroute.dev/podroute:0.1.0 .`
# `podroute lab image FILE` makes the same contents from a Debian 12 machine without a container engine (controller/lab/rootfs.py).

FROM debian:12-slim AS plugin
RUN apt-get update -q && apt-get install -y -q --no-install-recommends gcc libc6-dev
COPY controller/cni/shim.c /build/
RUN gcc -O2 -static -Wall -Wextra -Werror -o /build/podroute-cni /build/shim.c

FROM debian:12-slim AS packages
RUN apt-get update -q && apt-get install -y -q --no-install-recommends python3 python3-venv
WORKDIR /build
COPY pyproject.toml constraints.txt README.md ./
COPY bgp bgp
COPY controller controller
RUN python3 -m venv /build/venv \
    && /build/venv/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt \
        --prefix /build/prefix --no-compile . \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /build/prefix/lib

FROM debian:12-slim
RUN apt-get update -q && apt-get install -y -q --no-install-recommends python3 nftables \
    && rm -rf /var/lib/apt/lists/* \
    # The speaker's user.
    && groupadd --system --gid 61179 podroute \
    && useradd --system --uid 61179 --gid 61179 --home-dir / --no-create-home --shell /usr/sbin/nologin podroute
COPY --from=plugin /build/podroute-cni /usr/local/bin/podroute-cni
COPY --from=packages /build/prefix/lib/python3.11/site-packages /usr/local/lib/python3.11/dist-packages
RUN for name in podroute kubectl-podroute; do \
        printf '#!/usr/bin/python3.11\nimport sys\n\nfrom controller.cli.main import main\n\nsys.exit(main())\n' >/usr/local/bin/$name; \
        chmod 0755 /usr/local/bin/$name; \
    done
ENTRYPOINT ["/usr/local/bin/podroute"]
