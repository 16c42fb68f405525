import pytest

from humpback_jax.corpus.personal_data import has_address, has_email, has_phone

EMAILS = {
    "Write to jane.doe@uni-bonn.de for more.": True,
    "Mail: <bob+lists@mail.company.co.uk>": True,
    "contact: bob [at] company.com": True,
    "bob (at) company.com": True,
    "MAILTO:INFO@COMPANY.COM": True,
    "user@example.com and anyone@mail.example.org or team@domain.tld": False,
    "git@github.com:owner/name.git": False,
    "ssh root@10.0.0.1 or root@server.com": False,
    "logo@2x.png": False,
    "@property and @decorator.name": False,
    "me@host.local": False,
    "numpy@1.2.3 a@b": False,
    "look (at) this": False,
}
PHONES = {
    "Call +49 228 731234 now": True,
    "+1 (212) 736-5000": True,
    "+442079460958": True,
    "Tel. (415) 781-9000, ask for Bob": True,
    "415-781-9000": True,
    "1-800-356-9377": True,
    "415.781.9000": True,
    "+1 555 0100": False,
    "(212) 555-0123": False,
    "2019-10-12 10:20:30": False,
    "192.168.100.200": False,
    "ISBN 978-0-306-40615-7": False,
    "1234567890123": False,
    "3.14159265": False,
    "+1 and +100": False,
    "0-306-40615-2": False,
    "version 212.555.9999.1": False,
    "array([415, 781, 9000])": False,
    "x+49228731234": False,
    "pages 212-736-50001": False,
}
ADDRESSES = {
    "We live at 221B Baker Street, London.": True,
    "Visit 1600 Pennsylvania Ave, Washington": True,
    "350 5th Ave, New York": True,
    "12 North Main St. (rear)": True,
    "Cupertino, CA 95014": True,
    "San Francisco, CA 94103-1234": True,
    "London SW1A 2AA": True,
    "PO Box 1234": True,
    "P.O. Box 77": True,
    "In 1999 Main Street was closed": False,
    "Chapter 3 Road Maps": False,
    "3 Drive letters": False,
    "The year 2000, AD 12345": False,
    "Python 3 Core Place": False,
    "error CA 95014": False,
    "RFC 2606, section 2": False,
}


@pytest.mark.parametrize(
    ("detect", "cases"), [(has_email, EMAILS), (has_phone, PHONES), (has_address, ADDRESSES)]
)
def test_what_is_personal_and_what_only_looks_like_it(detect, cases):
    assert {text: detect(text) for text in cases} == cases
    joined = "\n".join(text for text, found in cases.items() if not found)
    assert not detect(joined)
