"""Which images the kernel reads, and what it is given of them."""

from lazysif.model import InodeNumber
from lazysif.tree.reading import Reading

A, B = InodeNumber(11), InodeNumber(12)


class FakeImage:
    give = None

    def give_to(self, give):
        self.give = give


class FakePages:
    def __init__(self):
        self.calls = []

    def give(self, *call):
        self.calls.append(call)
        return True

    def let_go(self, number):
        self.calls.append(number)


def test_an_image_is_given_under_the_name_by_which_it_was_opened():
    pages, image = FakePages(), FakeImage()
    reading = Reading(pages)
    reading.named(A, "shub/a.sif")
    reading.opened(A, image)
    assert image.give(4096, 100)
    assert pages.calls == [(A, "shub/a.sif", 4096, 100)]
    reading.released(A)
    assert image.give is None
    assert reading.get(A) is None
    assert pages.calls[1:] == [A]


def test_it_goes_on_until_the_last_handle_is_closed():
    pages, image = FakePages(), FakeImage()
    reading = Reading(pages)
    reading.named(A, "a")
    reading.opened(A, image)
    reading.opened(A, image)
    reading.released(A)
    assert reading.get(A) is image
    assert pages.calls == []
    reading.released(A)
    assert pages.calls == [A]


def test_when_one_of_two_names_is_closed_the_other_is_given_to():
    """Both files stay open in the process that reads ahead until their own last reader goes: else umount is busy."""
    pages, image = FakePages(), FakeImage()
    reading = Reading(pages)
    for number, name in ((A, "a"), (B, "b")):
        reading.named(number, name)
        reading.opened(number, image)
    reading.released(B)
    assert image.give(0, 1)
    assert pages.calls == [B, (A, "a", 0, 1)]
    reading.released(A)
    assert pages.calls[2:] == [A]
    assert image.give is None


def test_handles_of_a_daemon_before_are_not_counted():
    pages, image = FakePages(), FakeImage()
    reading = Reading(pages)
    reading.reads(A, image)
    assert reading.get(A) is image
    assert image.give is None, "its name is not known"
    reading.released(A)
    reading.released(A)
    assert pages.calls == [A]
    assert reading.get(A) is None


def test_a_forgotten_number_is_let_go_of_with_its_name():
    pages, image = FakePages(), FakeImage()
    reading = Reading(pages)
    reading.named(A, "a")
    reading.opened(A, image)
    reading.forget(A)
    assert pages.calls == [A]
    reading.opened(A, image)
    assert image.give is None


def test_without_pages_nothing_is_given():
    image = FakeImage()
    reading = Reading()
    reading.named(A, "a")
    reading.opened(A, image)
    assert image.give is None
    reading.released(A)
    assert reading.get(A) is None
