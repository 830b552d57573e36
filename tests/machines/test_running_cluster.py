import pytest

from engine.errors import SpecError
from engine.job.field_texts import field_texts
from engine.machines.running_cluster import Cluster, load_cluster


def written(tmp_path, text):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return path


def test_defaults_are_a_cluster_on_the_same_disk(tmp_path):
    cluster = load_cluster(written(tmp_path, "name: c\naddress: http://10.0.0.1:8265\n"))
    assert cluster == Cluster(name="c", address="http://10.0.0.1:8265")
    assert (cluster.working_dir, cluster.runs, cluster.python, cluster.env, cluster.secret_env) == (
        None,
        None,
        None,
        {},
        [],
    )


def test_paths_start_at_the_cluster_file_and_bare_commands_stay(tmp_path):
    head = "name: c\naddress: https://ray.example\n"
    path = written(
        tmp_path, head + "working_dir: ..\npython: venv/bin/python\nruns: /shared/runs\n"
    )
    cluster = load_cluster(path)
    assert cluster.working_dir == str(tmp_path.parent)
    assert (cluster.python, cluster.runs) == (f"{tmp_path}/venv/bin/python", "/shared/runs")
    path.write_text(head + "python: python3.11\n")
    assert load_cluster(path).python == "python3.11"


def test_problems_name_file_line_and_remedy(tmp_path):
    path = written(
        tmp_path,
        "name: c\naddress: 10.0.0.1:8265\nray_adress: auto\nenv: {HF_TOKEN: abc}\nwait_s: 0\n",
    )
    with pytest.raises(SpecError) as caught:
        load_cluster(path)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        f"{path}:{number}" for number in (2, 3, 4, 5)
    ]
    assert "did you mean ray_address?" in lines[1]
    assert "secret_env" in lines[2]


def test_every_field_has_a_description():
    assert field_texts(Cluster).keys() == Cluster.model_fields.keys()
    assert all(
        field.json_schema_extra == {"role": "placement"} for field in Cluster.model_fields.values()
    )


@pytest.mark.parametrize(
    "name",
    [
        "OPENAI_API_KEY",
        "OPENAI_API_KEY_2",
        "HF_TOKEN",
        "HF_TOKEN_READ",
        "GITHUB_PAT",
        "DB_PASSWD",
        "AZURE_KEY1",
        "AUTH_HEADER",
        "OPENAI_CRED",
    ],
)
def test_names_of_secrets_do_not_stand_under_env(tmp_path, name):
    with pytest.raises(SpecError, match="list the name under secret_env"):
        load_cluster(
            written(tmp_path, f"name: c\naddress: http://10.0.0.1:8265\nenv: {{{name}: abc}}\n")
        )


@pytest.mark.parametrize(
    "name", ["MAX_TOKENS", "SORT_KEY", "RAY_AUTH_MODE", "PYTHONPATH", "PATH", "NCCL_DEBUG"]
)
def test_other_variables_may(tmp_path, name):
    path = written(tmp_path, f"name: c\naddress: http://10.0.0.1:8265\nenv: {{{name}: abc}}\n")
    assert load_cluster(path).env == {name: "abc"}
