# Fanway in a container: built in one stage, run in another that holds the interpreter, one venv and no tools.
#
#   docker build -t fanway .
#   docker run -p 8000:8000 -e FANWAY_AUTH__SECRET=… -e FANWAY_PUSH__KEYS='["…"]' fanway
#
# A gateway.toml goes to /etc/fanway. Draining takes up to 30 s: stop with `docker stop --time 40`.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# The dependencies come first: they change more seldom than the code, and their layer is kept until they do.
COPY requirements-build.lock requirements-runtime.lock ./
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: --requirement requirements-build.lock
RUN python -m venv --without-pip /opt/fanway \
    && /opt/build/bin/pip --python /opt/fanway/bin/python \
        install --require-hashes --only-binary :all: --requirement requirements-runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway ./gateway
COPY protocol ./protocol
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/build/bin/pip --python /opt/fanway/bin/python install --no-deps dist/*.whl

FROM python:${PYTHON}
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin fanway
COPY --from=build /opt/fanway /opt/fanway
# Clients come in from outside. The internal listener stays on loopback until FANWAY_LISTEN__INTERNAL__HOST opens it.
ENV PATH=/opt/fanway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FANWAY_LISTEN__PUBLIC__HOST=0.0.0.0
WORKDIR /etc/fanway
# By number, so that Kubernetes can see that it is not root.
USER 10001
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('FANWAY_LISTEN__PUBLIC__PORT', '8000') + '/healthz', timeout=2)"]
CMD ["fanway", "serve"]
