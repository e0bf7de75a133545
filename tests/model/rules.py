"""The rules that look odd, each with the sentence of the design it stands for.

A world keeps every rule but those taken out of it; `scenarios.NOTICED` names for each
the scenario that must notice. `UNNOTICED` are rules that none can notice, and why:
another stands behind each, and both taken out are noticed, or it saves time alone.
"""

from __future__ import annotations

from enum import Enum


class Rule(Enum):
    """One rule; its value is what the design says."""

    # -- claims and waits on the host
    TENTATIVE_THEN_CONFIRMED = (
        "A claim is taken tentatively; the taker scans the set again; a lower "
        "tentative one: withdraw; a higher one: void it; then confirm by CAS."
    )
    NOTED_AFTER_CLAIM = "The flight takes the key's claim, then notes the clock."
    NOTED_AGAIN = "... (again before each later ask)."
    SECOND_PEEK = "... and peeks once more."
    VOID_TAKEN_OVER = (
        "A claim whose stamp lies under the key's stripe is void: whoever finds it "
        "takes it over."
    )
    CLAIM_CHECKED = "L1 is written only if the claim is still ours."
    BIT_THEN_REREAD = "Set the bit, read the word again, park only if it is unchanged."
    WORD_THEN_BITMAP = "The changer changes the word, then takes the bitmap."
    CLAIM_POLLED = "Each parked process polls: the word, and the holder's liveness."
    ERROR_TO_WAITERS = (
        "abandon leaves an error record, taken only by those who waited for it."
    )
    # -- lease and stores
    FRESH_TOKEN = "Each ask offers a fresh token; a token is offered once."
    LEASE_TAKEN_OVER = (
        "One CAS of the claim, then acquire instead of the token in the claim."
    )
    TOKEN_CHECKED = "lost: the lease is not this token: it touches nothing."
    RAISE_CHECKED = (
        "raised: something the value bears was invalidated since the fill's start."
    )
    CLOCK_CHECKED = "A raised tag, namespace or clear makes a value none."
    INCARNATION_CHECKED = "Another incarnation makes a value none."
    LEASE_BEFORE_COMPUTE = (
        "A value goes to L2 only under a lease whose grant was answered before the "
        "computation began."
    )
    RENEW_NEVER_MAKES = "renew never re-creates a lease."
    L2_BEFORE_L1 = "After stored and full L1 is written; a lost or raised fill is not."
    WAITER_NOTED_IN_ACQUIRE = "WAIT notes the waiter's channel inside acquire."
    LEASE_POLLED = "A waiter asks again anyway: a message is only a hint."
    # -- who may be answered, and with what
    STAMP_BEFORE_ASK = "A get notes the clock, then asks."
    STORE_CHECKED = "A store is refused if a stripe stands above the stamp."
    NEWER_ONLY = (
        "Where there is no claim: only if no record of a later birth stands there."
    )
    NOTE_AGAINST_STAMP = "Only callers whose note is not above the stamp are answered."
    LOWEST_UNSENT = (
        "An L2 value is not used if its stripe stands above the lowest unsent entry."
    )
    LOWEST_AFTER_NOTE = "A get notes the clock, reads the lowest unsent, then asks."
    # -- invalidation
    DELETE_TAKES_LEASE = "The script deletes value and lease."
    RAISED_BEFORE = "Number, raise, drop before the script."
    RAISED_AFTER = "Number, raise, drop again, however the script ended."
    SENT_BY_REPLY = "Marked sent by a reply that says appended."
    ENTRY_FIRST = "Entry in the outbox first, bearing the clock as it stands."
    SET_ANSWERED = (
        "A set fills L1 only after stored or full: without an answer another's delete "
        "may have come between script and stamp, and be applied already."
    )
    SET_TAKES_LEASE = "set is a delete that takes the lease, and a fill."
    NEW_G_DELETES_S = "A script that makes a new :g deletes :s."
    # -- the follower
    ECHO_APPLIED = "It applies every entry, its own host's included."
    SETTLED_BY_SENDER = (
        "An entry of a set is passed over only where its sender, on this host, has "
        "said that it raised after the script's answer."
    )
    NONCE_SPARES_ONE = "Where just the record of that nonce stands nothing is dropped."
    NONCE_RAISES = "The key of a set's entry is raised all the same."
    POSITION_AFTER = "The position moves only after its entries are applied."
    POSITION_BY_CAS = "... by CAS from the position read."
    POSITION_OF_INCARNATION = (
        "A position is one of its incarnation: a clock that began anew, or went back, "
        "may come to stand where the position was read."
    )
    GAP_FOUND = "A gap is a first id that is not position + 1, or nothing to read."
    GAP_RAISED_FIRST = "Raise the gap word, then CAS the position."
    IDENTITY_LAST = "Store the identity last."
    STRANGERS_NOT_READ = (
        "A connection whose identity is not the one the follower noted is not read."
    )
    NEW_INCARNATION = "The first to see another identity writes a new incarnation."
    SETTLED_FROM_R = "... by compare and set, from the identity that :g names."
    # -- the outbox
    OUTBOX_SENT_BY_SIBLINGS = "A killed worker's entries are sent by its siblings."
    OVERFLOW_CLEARS = "Overflow becomes one clear."
    OUTBOX_SETS_ARE_DELETES = "In the outbox a set is a delete."
    OUTBOX_BEFORE_BREAKER = "After an outage it is sent before the breaker closes."


UNNOTICED = {
    Rule.RAISED_BEFORE: (
        "What is stored during the script is dropped by the raise after it, before the "
        "invalidation returns."
    ),
    Rule.RAISED_AFTER: (
        "What Redis answers during the script is not used, for the entry is unsent; "
        "once it is sent Redis holds nothing older."
    ),
    Rule.NEW_G_DELETES_S: (
        "Below the old stream's last id an entry is refused, and so stays unsent; each "
        "try raises the clock until it has passed. It costs time, as long as the old "
        "stream was."
    ),
    Rule.OUTBOX_BEFORE_BREAKER: (
        "An older entry that comes after newer commands only makes a miss, and until "
        "then the host uses no value below it: here the outbox is sent at any time. "
        "The order ends the other hosts' stale answers sooner."
    ),
}

PAIRS = {
    Rule.RAISED_BEFORE: Rule.RAISED_AFTER,
    Rule.RAISED_AFTER: Rule.LOWEST_UNSENT,
}
"""The rule that stands behind an unnoticed one; both out must be noticed."""
