# The images of a router and of a node: `docker build --target router .`, `docker build --target node .`; of a node with NVIDIA's
# libraries, for GPUs: `docker build --target node-cuda .`. They share every layer but their command and what only one of them needs.
# `prometheus` is what the compose cluster watches its members with. They hold no key, no token and no model: those are mounted.

# Any Debian or Ubuntu image whose python3 (3.11 to 3.13) can make virtual environments.
ARG BASE_IMAGE=python:3.13-slim-trixie

FROM ${BASE_IMAGE} AS base
# Packages are fetched only where the base image lacks them.
RUN dpkg --status ca-certificates >/dev/null 2>&1 \
 || { apt-get update \
   && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates \
   && rm -rf /var/lib/apt/lists/*; }
ENV PATH=/opt/capamesh/bin:$PATH \
    PYTHONUNBUFFERED=1

# Prometheus, as the base image's own distribution has it; docker-compose.yml says what it reads.
FROM base AS prometheus
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends prometheus \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o prometheus -g prometheus -m 0700 /prometheus
USER prometheus
WORKDIR /prometheus
STOPSIGNAL SIGTERM
ENTRYPOINT ["prometheus"]
LABEL org.opencontainers.image.title="capamesh-prometheus" \
      org.opencontainers.image.description="Prometheus for the compose cluster of Capamesh"

# What is fetched changes with requirements/runtime.txt alone.
FROM base AS dependencies
RUN python3 -m venv /opt/capamesh
COPY requirements/runtime.txt /build/
# All of it is in the file; fastecdsa, which libp2p asks for besides, has a stand-in that comes with the wheel.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --require-hashes -r /build/runtime.txt

# The wheel, its hot modules compiled for the base image's Python. mypyc reads the types of what they import, which is among the dependencies.
FROM dependencies AS wheel
RUN if ! command -v gcc >/dev/null; then set -- gcc libc6-dev; fi \
 && python3 -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || set -- "$@" python3-dev \
 && if [ $# -gt 0 ]; then apt-get update \
   && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" \
   && rm -rf /var/lib/apt/lists/*; fi
RUN --mount=type=bind,source=requirements/build.txt,target=/tmp/build.txt \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --require-hashes -r /tmp/build.txt
WORKDIR /build
# .dockerignore says which files that is.
COPY . ./
RUN --mount=type=cache,target=/build/build/compiled,sharing=locked \
    CAPAMESH_COMPILE=1 pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheels . ./requirements/fastecdsa

FROM base AS member
# The models of texts that skl2onnx makes have ONNX Runtime change letters to small ones by this locale.
RUN locale -a | grep -qi en_US.utf8 \
 || { apt-get update \
   && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends locales \
   && localedef -i en_US -f UTF-8 en_US.UTF-8 \
   && rm -rf /var/lib/apt/lists/*; }
# A fixed uid, so that a volume's files belong to the same user in every container and after every rebuild.
ARG UID=10001
RUN groupadd --gid ${UID} capamesh \
 && useradd --uid ${UID} --gid ${UID} --no-create-home --home-dir /data --shell /usr/sbin/nologin capamesh \
 # A new volume takes over owner and mode of the folder it is mounted on. The last four are docker-compose.yml's.
 && install -d -o capamesh -g capamesh -m 0700 \
    /data /token /network /network/owner /network/router /network/router-token /network/node-token
COPY --from=dependencies /opt/capamesh /opt/capamesh
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps --no-index /wheels/*.whl && pip check
ENV PYTHONDONTWRITEBYTECODE=1 \
    CAPAMESH_DATA=/data
USER ${UID}:${UID}
WORKDIR /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["capamesh"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.vendor="The Capamesh developers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The driver of PostgreSQL, where keys or jobs may be kept, and what reads and writes the data of jobs come on top: a node needs neither.
FROM member AS router
USER 0
RUN --mount=type=bind,source=requirements/router.txt,target=/tmp/router.txt \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --require-hashes -r /tmp/router.txt && pip check
USER ${UID}:${UID}
LABEL org.opencontainers.image.title="capamesh-router" \
      org.opencontainers.image.description="A router of a Capamesh network: finds nodes by gossip and sends requests to them"
ENV CAPAMESH_HTTP=0.0.0.0:8000 \
    CAPAMESH_MESH=0.0.0.0:4001 \
    CAPAMESH_LINKS=0.0.0.0:4100
EXPOSE 8000 4001 4100
HEALTHCHECK --interval=10s --timeout=10s --start-period=90s --start-interval=2s --retries=3 \
    CMD ["capamesh", "router", "status", "--data", "/data"]
CMD ["router", "run"]

# What models of texts, of pictures and of language need comes on top: a router needs none of it.
FROM member AS node
USER 0
RUN --mount=type=bind,source=requirements/tasks.txt,target=/tmp/tasks.txt \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --require-hashes -r /tmp/tasks.txt && pip check
USER ${UID}:${UID}
LABEL org.opencontainers.image.title="capamesh-node" \
      org.opencontainers.image.description="A node of a Capamesh network: hosts ONNX models on this machine's devices"
ENV CAPAMESH_MODELS=/models \
    CAPAMESH_HOST=0.0.0.0 \
    CAPAMESH_MESH_PORT=4001 \
    CAPAMESH_PORT=4100
EXPOSE 4001 4100
HEALTHCHECK --interval=10s --timeout=10s --start-period=90s --start-interval=2s --retries=3 \
    CMD ["capamesh", "node", "status", "--data", "/data"]
CMD ["node", "run"]

# CUDA and cuDNN, of which the driver's part comes from the host: NVIDIA's container toolkit mounts it, and the devices.
FROM node AS node-cuda
USER 0
RUN --mount=type=bind,source=requirements/cuda.txt,target=/tmp/cuda.txt \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --require-hashes -r /tmp/cuda.txt
USER ${UID}:${UID}
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.title="capamesh-node-cuda" \
      org.opencontainers.image.description="A node of a Capamesh network, with CUDA: hosts ONNX models on this machine's GPUs"
