"""What a server tells about itself: limits, models, reflection, and its defects."""

import logging
import shutil

import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support.server import server_thread, tiny_package
from tests.support.wire import connected, refused
from whit.contract.errors import Reason
from whit.v1 import collection_pb2, embedding_pb2, model_pb2, server_pb2

SERVICES = ["EmbeddingService", "ModelService", "CollectionService", "PointService", "ServerService"]


def test_the_server_describes_itself(tmp_path):
    packages = [tiny_package(), tiny_package("b"), tiny_package("a", seed=3)]
    with server_thread(tmp_path, models=packages, batch_item_count=7) as address, connected(address) as wire:
        info = wire.info.GetServerInfo(server_pb2.GetServerInfoRequest())
        assert info.version
        assert info.limits.batch_item_count == 7
        assert info.worker_count == 2
        assert "CPUExecutionProvider" in info.providers
        assert [m.name for m in info.models] == ["models/a", "models/b", "models/tiny"]
        first = wire.models.ListModels(model_pb2.ListModelsRequest(page_size=2))
        rest = wire.models.ListModels(model_pb2.ListModelsRequest(page_size=2, page_token=first.next_page_token))
        assert [*first.models, *rest.models] == list(info.models)
        assert not rest.next_page_token
        tiny = wire.models.GetModel(model_pb2.GetModelRequest(name="models/tiny")).model
        assert tiny == info.models[2]
        assert (tiny.dimension_count, tiny.max_token_count, tiny.pooling) == (32, 64, "mean")
        assert (tiny.architecture, tiny.dtype, tiny.verified) == ("bert", "float32", True)
        assert dict(tiny.prompts) == {"query": "find: ", "document": "text: "}
        assert tiny.size_bytes > 10_000
        verified = wire.models.VerifyModel(model_pb2.VerifyModelRequest(name="models/tiny"))
        assert verified.verified
        assert verified.text_count >= 4
        assert verified.max_abs_difference <= verified.tolerance
        assert verified.min_cosine > 0.999
        problem = refused(lambda: wire.models.GetModel(model_pb2.GetModelRequest(name="models/none")))
        assert problem.reason is Reason.MODEL_NOT_FOUND


def test_a_model_is_described_embeds_and_is_verified_after_its_directory_is_gone(tmp_path):
    package = shutil.copytree(tiny_package(), tmp_path / "package")
    with server_thread(tmp_path / "data", models=[package]) as address, connected(address) as wire:
        before = wire.models.GetModel(model_pb2.GetModelRequest(name="models/tiny")).model
        shutil.rmtree(package)

        assert wire.info.GetServerInfo(server_pb2.GetServerInfoRequest()).models[0].size_bytes == before.size_bytes
        assert not wire.embed("a text").items[0].HasField("status")
        assert wire.models.VerifyModel(model_pb2.VerifyModelRequest(name="models/tiny")).verified


def test_the_costs_of_a_model_follow_what_it_ran(tmp_path):
    with server_thread(tmp_path) as address, connected(address) as wire:

        def costs():
            model = wire.models.GetModel(model_pb2.GetModelRequest(name="models/tiny")).model
            (listed,) = wire.models.ListModels(model_pb2.ListModelsRequest()).models
            assert listed.HasField("costs") == model.HasField("costs")
            return model.costs

        before = costs().run_count
        for length in (1, 20, 60) * 10:
            options = embedding_pb2.EmbedOptions(model="models/tiny")
            wire.embedding.Embed(embedding_pb2.EmbedRequest(options=options, texts=["a " * length]))
        found = costs()
        assert found.run_count == before + 30
        assert found.HasField("relative_error")
        parts = (found.run_time_us, found.token_time_us, found.cell_time_us)
        assert min(parts) >= 0
        assert 0 < sum(parts) < 1e6


def test_reflection_lists_every_service_and_describes_them(tmp_path):
    with server_thread(tmp_path) as address, connected(address) as wire:
        stub = reflection_pb2_grpc.ServerReflectionStub(wire.channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="whit.v1.PointService"),
        ]
        listed, described = stub.ServerReflectionInfo(iter(requests))
        names = {service.name for service in listed.list_services_response.service}
        assert {f"whit.v1.{name}" for name in SERVICES} < names
        assert described.file_descriptor_response.file_descriptor_proto


def test_a_defect_is_internal_with_a_request_id_that_the_log_has(tmp_path, monkeypatch, caplog):
    def broken(self):
        raise RuntimeError("a defect, made by this test")

    with server_thread(tmp_path) as address, connected(address) as wire:
        monkeypatch.setattr("whit.server.index.CollectionStore.ids", broken)
        with caplog.at_level(logging.ERROR):
            problem = refused(lambda: wire.collections.ListCollections(collection_pb2.ListCollectionsRequest()))
        assert problem.reason is Reason.INTERNAL
        assert "made by this test" not in problem.message
        (record,) = [r for r in caplog.records if r.exc_info]
        assert record.fields["request_id"] == problem.metadata["request_id"]
        assert problem.metadata["request_id"] in problem.message


def test_every_method_of_the_protos_is_implemented():
    from whit.server.app import _SERVICES
    from whit.server.service.rpc import snake_case

    assert {service.name for service in _SERVICES} == set(SERVICES)
    for service, kind in _SERVICES.items():
        for method in service.methods:
            assert callable(getattr(kind, snake_case(method.name), None)), f"{service.name}.{method.name}"


@pytest.mark.parametrize("page_size", [-1, 1001])
def test_bad_pages_of_models_are_refused(tmp_path, page_size):
    with server_thread(tmp_path) as address, connected(address) as wire:
        request = model_pb2.ListModelsRequest(page_size=page_size)
        assert refused(lambda: wire.models.ListModels(request)).violations[0].field == "page_size"
