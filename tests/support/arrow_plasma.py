# Licensed to the Apache Software Foundation (ASF) under one
# or more contributor license agreements.  See the NOTICE file
# distributed with this work for additional information
# regarding copyright ownership.  The ASF licenses this file
# to you under the Apache License, Version 2.0 (the
# "License"); you may not use this file except in compliance
# with the License.  You may obtain a copy of the License at
#
#   http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing,
# software distributed under the License is distributed on an
# "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY
# KIND, either express or implied.  See the License for the
# specific language governing permissions and limitations
# under the License.
#
# Changed by the authors of refstore: taken apart into several files and formatted anew, run against
# `refstore.plasma`, and where a line says so.
# mypy: ignore-errors
# ruff: noqa
"""What Arrow's tests of its Plasma client share: objects of random bytes, a store for each test."""

import random
import signal
import sys
import time

import numpy as np
import pytest
from libraries import Late

import refstore

pa = Late("pyarrow")


@pytest.fixture(autouse=True)
def pyarrow_has_plasma(folder, monkeypatch):
    """Puts refstore's in the place of the module that pyarrow has no more; stores are in `folder`."""
    import refstore.plasma

    monkeypatch.setitem(sys.modules, "pyarrow.plasma", refstore.plasma)
    monkeypatch.setattr("pyarrow.plasma", refstore.plasma, raising=False)
    monkeypatch.setenv("REFSTORE_DIR", str(folder))


DEFAULT_PLASMA_STORE_MEMORY = 10**8
SMALL_OBJECT_SIZE = 9000


def random_object_id():
    import pyarrow.plasma as plasma

    return plasma.ObjectID(np.random.bytes(20))


def generate_metadata(length):
    metadata = bytearray(length)
    if length > 0:
        metadata[0] = random.randint(0, 255)
        metadata[-1] = random.randint(0, 255)
        for _ in range(100):
            metadata[random.randint(0, length - 1)] = random.randint(0, 255)
    return metadata


def write_to_data_buffer(buff, length):
    array = np.frombuffer(buff, dtype="uint8")
    if length > 0:
        array[0] = random.randint(0, 255)
        array[-1] = random.randint(0, 255)
        for _ in range(100):
            array[random.randint(0, length - 1)] = random.randint(0, 255)


def create_object_with_id(client, object_id, data_size, metadata_size, seal=True):
    metadata = generate_metadata(metadata_size)
    memory_buffer = client.create(object_id, data_size, metadata)
    write_to_data_buffer(memory_buffer, data_size)
    if seal:
        client.seal(object_id)
    return memory_buffer, metadata


def create_object(client, data_size, metadata_size=0, seal=True):
    object_id = random_object_id()
    memory_buffer, metadata = create_object_with_id(
        client, object_id, data_size, metadata_size, seal=seal
    )
    return object_id, memory_buffer, metadata


class ClientCase:
    def setup_method(self, test_method):
        import pyarrow.plasma as plasma

        # Start Plasma store.
        self.plasma_store_ctx = plasma.start_plasma_store(
            plasma_store_memory=DEFAULT_PLASMA_STORE_MEMORY
        )
        self.plasma_store_name, self.p = self.plasma_store_ctx.__enter__()
        # Connect to Plasma.
        self.plasma_client = plasma.connect(self.plasma_store_name)
        self.plasma_client2 = plasma.connect(self.plasma_store_name)

    def teardown_method(self, test_method):
        try:
            # Refstore: no mapping is to be left.
            self.plasma_client.disconnect()
            self.plasma_client2.disconnect()
            # Check that the Plasma store is still alive.
            assert self.p.poll() is None
            self.p.send_signal(signal.SIGTERM)
            self.p.wait(timeout=5)
            assert self.p.returncode == 0
        finally:
            self.plasma_store_ctx.__exit__(None, None, None)


def wait_until_somebody_waits(client):
    store = refstore.Store(client.store_socket_name, create=False)
    while store.stats().waiting == 0:
        time.sleep(0.01)
    store.close()
