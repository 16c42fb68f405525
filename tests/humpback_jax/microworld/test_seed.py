from humpback_jax.microworld.seed import seed_messages
from humpback_jax.microworld.world import WorldConfig, make_world

CONFIG = WorldConfig()
WORLD = make_world(CONFIG)
MESSAGES = list(seed_messages(WORLD, CONFIG))
BY_ID = {message["message_id"]: message for message in MESSAGES}


def is_usable(message):
    root = BY_ID[message["parent_id"]] if "parent_id" in message else None
    return (
        root is not None
        and "parent_id" not in root
        and message.get("rank") == 0
        and message["lang"] == root["lang"] == "en"
        and message["review_result"]
        and not message["deleted"]
        and message["tree_state"] == "ready_for_export"
    )


def test_the_export_has_the_configured_number_of_usable_pairs():
    usable = [message for message in MESSAGES if is_usable(message)]
    assert len(usable) == 120
    pairs = {(BY_ID[m["parent_id"]]["text"], m["text"]) for m in usable}
    assert len(pairs) == 120
    assert all(any(town in text for town in WORLD.seed) for _, text in pairs)


def test_the_export_has_what_a_seed_filter_must_drop():
    assert any(m["lang"] != "en" for m in MESSAGES)
    assert any(m["deleted"] for m in MESSAGES)
    assert any(m.get("rank") == 1 for m in MESSAGES)
    assert any(m["role"] == "assistant" and "rank" not in m for m in MESSAGES)
    assert any(m["tree_state"] != "ready_for_export" for m in MESSAGES)
    deeper = [m for m in MESSAGES if m.get("rank") == 0 and "parent_id" in BY_ID[m["parent_id"]]]
    assert not any("parent_id" in BY_ID[m["parent_id"]] for m in MESSAGES if is_usable(m))
    assert [m for m in deeper if "parent_id" in BY_ID[BY_ID[m["parent_id"]]["parent_id"]]]


def test_ids_are_unique_parents_come_first_and_roles_alternate():
    assert len(BY_ID) == len(MESSAGES)
    seen = set()
    for message in MESSAGES:
        seen.add(message["message_id"])
        parent = message.get("parent_id")
        assert parent is None or parent in seen
        expected = "prompter"
        if parent is not None and BY_ID[parent]["role"] == "prompter":
            expected = "assistant"
        assert message["role"] == expected
        assert message["message_tree_id"] in BY_ID
