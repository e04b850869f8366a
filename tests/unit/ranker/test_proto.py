"""`ranker/v1/ranker.proto` reads as buf's standard lint wants it, and its Python is up to date."""

import re
import sys
from pathlib import Path

import grpc_tools
import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet, SourceCodeInfo
from grpc_tools import protoc

from ranker.request import RankRequest, RankResponse
from ranker.v1 import ranker_pb2 as pb

ROOT = Path(__file__).parents[3]
PROTO = Path("ranker/v1/ranker.proto")
FILE = pb.DESCRIPTOR
LOWER_SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
PASCAL = re.compile(r"([A-Z][a-z0-9]*)+")


def messages() -> list[Descriptor]:
    return list(FILE.message_types_by_name.values())


def enums() -> list[EnumDescriptor]:
    inner = [enum for message in messages() for enum in message.enum_types]
    return [*FILE.enum_types_by_name.values(), *inner]


def test_the_package_is_versioned_and_lies_in_its_folder() -> None:
    assert re.fullmatch(r"[a-z]+(\.[a-z]+)*\.v[1-9][0-9]*", FILE.package)
    assert Path(FILE.name).parent.as_posix() == FILE.package.replace(".", "/")
    assert LOWER_SNAKE.fullmatch(Path(FILE.name).stem)
    assert (ROOT / PROTO).is_file()


def test_names_have_their_usual_case() -> None:
    for message in messages():
        assert PASCAL.fullmatch(message.name)
        for field in message.fields:
            assert LOWER_SNAKE.fullmatch(field.name), field.full_name
        for oneof in message.oneofs:
            assert LOWER_SNAKE.fullmatch(oneof.name.lstrip("_")), oneof.full_name


def test_enums_begin_with_their_prefix_and_an_unspecified_zero() -> None:
    for enum in enums():
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
        assert all(value.name.startswith(prefix) for value in enum.values)
        assert enum.values_by_number[0].name == f"{prefix}UNSPECIFIED"


def test_services_are_called_so_and_each_call_has_messages_of_its_own() -> None:
    used: list[str] = []
    for service in FILE.services_by_name.values():
        assert service.name.endswith("Service")
        for method in service.methods:
            assert PASCAL.fullmatch(method.name)
            assert method.input_type.name == f"{method.name}Request"
            assert method.output_type.name == f"{method.name}Response"
            used += [method.input_type.full_name, method.output_type.full_name]
    assert len(set(used)) == len(used) == 4


def test_everything_has_a_comment(tmp_path: Path) -> None:
    found = tmp_path / "found"
    compile_to(f"--descriptor_set_out={found}", "--include_source_info")
    (file,) = FileDescriptorSet.FromString(found.read_bytes()).file
    silent = [
        list(location.path)
        for location in file.source_code_info.location
        if _is_declaration(location) and not location.leading_comments.strip()
    ]
    assert silent == []


def _is_declaration(location: SourceCodeInfo.Location) -> bool:
    """A message (4), its fields (2) and oneofs (8); an enum (5); a service (6), its calls (2)."""
    match list(location.path):
        case [4 | 5 | 6, _] | [4, _, 2 | 8, _] | [5 | 6, _, 2, _]:
            return True
        case _:
            return False


def compile_to(*options: str) -> None:
    wellknown = Path(grpc_tools.__file__).parent / "_proto"
    arguments = [sys.executable, f"-I{ROOT}", f"-I{wellknown}", *options, str(ROOT / PROTO)]
    assert protoc.main(arguments) == 0


@pytest.mark.parametrize("name", ["ranker_pb2.py", "ranker_pb2.pyi"])
def test_the_generated_python_is_up_to_date(name: str, tmp_path: Path) -> None:
    compile_to(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}")
    made = (tmp_path / PROTO.parent / name).read_text()
    assert made == (ROOT / PROTO.parent / name).read_text(), "run `make proto`"


def test_messages_have_the_fields_of_http() -> None:
    """Heads and features travel as columns, an item's place is its place in the list."""
    assert set(pb.RankRequest.DESCRIPTOR.fields_by_name) == set(RankRequest.model_fields)
    columns = {"head_names", "feature_names"}
    assert set(pb.RankResponse.DESCRIPTOR.fields_by_name) - columns == set(
        RankResponse.model_fields
    )
    for field in pb.RankRequest.DESCRIPTOR.fields:
        assert field.has_presence, "absent and empty are not the same"
