"""How customers put it: wording sets per family and language.

Each list holds twelve wordings: `w1` to `w8` for training, `d1` and `d2` for dev, `t1` and `t2` for test, in
this order. Where a customer speaks twice, a wording is a pair. Braces name what the task fills in.
"""

from __future__ import annotations

from collections.abc import Mapping

Wording = str | tuple[str, str]

SETS = ("w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "d1", "d2", "t1", "t2")
TRAIN_SETS, DEV_SETS, TEST_SETS = SETS[:8], SETS[8:10], SETS[10:]

THANKS_SETS = ("w1", "w2", "w3", "w4", "d1", "t1")
"""The sets of `no_tool` in which the customer only says thanks; the others ask about a rule."""

WORDINGS: Mapping[str, Mapping[str, list[Wording]]] = {
    "order_status": {
        "en": [
            "Where is my order {order}?",
            "What is the status of order {order}?",
            "I'd like to know how my order {order} is doing.",
            "Can you check order {order} for me?",
            "Has my order {order} been shipped yet?",
            "Any news about order {order}?",
            "My order number is {order}. What is happening with it?",
            "Please tell me where order {order} stands.",
            "Could you look at the progress of order {order}?",
            "I am still waiting for order {order}. What is its status?",
            "How far along is my order, number {order}?",
            "I ordered something under {order} and want to know its current status.",
        ],
        "fr": [
            "Où est ma commande {order} ?",
            "Quel est l'état de la commande {order} ?",
            "Je voudrais savoir où en est ma commande {order}.",
            "Pouvez-vous vérifier la commande {order} ?",
            "Ma commande {order} est-elle déjà partie ?",
            "Des nouvelles de ma commande {order} ?",
            "Mon numéro de commande est {order}. Que se passe-t-il ?",
            "Dites-moi où en est la commande {order}, s'il vous plaît.",
            "Pourriez-vous regarder l'avancement de la commande {order} ?",
            "J'attends toujours la commande {order}. Quel est son état ?",
            "À quelle étape se trouve ma commande, numéro {order} ?",
            "J'ai commandé sous le numéro {order} et je veux connaître l'état actuel.",
        ],
    },
    "find_order": {
        "en": [
            "Where is my {item}? My email is {email}.",
            "I bought a {item} with {email}. What is its status?",
            "Can you check my {item} order? I use {email}.",
            "I don't have the order number of my {item}. My email is {email}. Is it shipped?",
            "What is the status of my {item}? My account is {email}.",
            "My email is {email}. How is the order of my {item} doing?",
            "Please look up my {item}, ordered with {email}. Where is it?",
            "Any news about the {item} that I ordered as {email}?",
            "I lost the number of my {item} order. Could you check its status with {email}?",
            "I'm {email}. I want to know where my {item} is.",
            "Could you trace the {item} I ordered? {email} is my email.",
            "No order number, sorry. It is a {item}, bought under {email}. How far along is it?",
        ],
        "fr": [
            "Où est {my_item} ? Mon e-mail est {email}.",
            "J'ai acheté {a_item} avec {email}. Quel est l'état de la commande ?",
            "Pouvez-vous vérifier la commande {of_item} ? J'utilise {email}.",
            "Je n'ai pas le numéro de commande {of_item}. Mon e-mail est {email}. Est-ce parti ?",
            "Quel est l'état de {my_item} ? Mon compte est {email}.",
            "Mon e-mail est {email}. Où en est la commande {of_item} ?",
            "Cherchez {my_item}, commande passée avec {email}. Où est-ce ?",
            "Des nouvelles {of_item} que j'ai pris avec {email} ?",
            "J'ai perdu le numéro {of_item}. Pouvez-vous vérifier l'état avec {email} ?",
            "Je suis {email}. Je veux savoir où est {my_item}.",
            "Pourriez-vous retrouver {my_item} ? {email} est mon e-mail.",
            "Pas de numéro de commande, désolé. C'est {a_item}, achat fait avec {email}. Où en est-on ?",
        ],
    },
    "cancel": {
        "en": [
            "Please cancel my order {order}.",
            "I want to cancel order {order}.",
            "Cancel {order}, I don't need it any more.",
            "I changed my mind about order {order}. Can you cancel it?",
            "I ordered {order} by mistake. Cancel it, please.",
            "Can you stop order {order}? I want it cancelled.",
            "I no longer want order {order}, please cancel.",
            "My order {order} should be cancelled.",
            "Could you call off order {order}? I would like to cancel.",
            "Order {order} was a mistake, I need to cancel it.",
            "I found it cheaper elsewhere, so cancel order {order}.",
            "Would it be possible to have order {order} cancelled?",
        ],
        "fr": [
            "Annulez ma commande {order}, s'il vous plaît.",
            "Je veux annuler la commande {order}.",
            "Annulez {order}, je n'en ai plus besoin.",
            "J'ai changé d'avis pour la commande {order}. Pouvez-vous l'annuler ?",
            "J'ai passé la commande {order} par erreur. Il faut l'annuler.",
            "Pouvez-vous arrêter la commande {order} ? Je veux l'annuler.",
            "Je ne veux plus de la commande {order}, merci de l'annuler.",
            "Ma commande {order} doit être annulée.",
            "Pourriez-vous stopper la commande {order} ? Je souhaite annuler.",
            "La commande {order} était une erreur, je dois l'annuler.",
            "J'ai trouvé moins cher ailleurs, donc annulez la commande {order}.",
            "Serait-il possible de faire annuler la commande {order} ?",
        ],
    },
    "address": {
        "en": [
            "Please send order {order} to {city}.",
            "Can you change the city of order {order} to {city}?",
            "I moved to {city}. Please change the address of order {order}.",
            "The address of order {order} is wrong, it should go to {city}.",
            "Deliver order {order} to {city} instead.",
            "I need order {order} in {city}, please update the address.",
            "Order {order} must go to {city} now.",
            "New address for order {order}: {city}.",
            "Could you redirect order {order} to {city}?",
            "I will be in {city}, so change where order {order} goes.",
            "Please make {city} the delivery city of order {order}.",
            "I gave the wrong city for order {order}. The right one is {city}.",
        ],
        "fr": [
            "Envoyez la commande {order} à {city}, s'il vous plaît.",
            "Pouvez-vous changer la ville de la commande {order} pour {city} ?",
            "J'habite maintenant à {city}. Changez l'adresse de la commande {order}.",
            "L'adresse de la commande {order} est fausse, elle doit aller à {city}.",
            "Livrez plutôt la commande {order} à {city}.",
            "Il me faut la commande {order} à {city}, merci de changer l'adresse.",
            "La commande {order} doit aller à {city} maintenant.",
            "Nouvelle adresse pour la commande {order} : {city}.",
            "Pourriez-vous rediriger la commande {order} vers {city} ?",
            "Je serai à {city}, changez donc la destination de la commande {order}.",
            "Mettez {city} comme ville de livraison de la commande {order}.",
            "J'ai donné la mauvaise ville pour la commande {order}. La bonne est {city}.",
        ],
    },
    "two_orders": {
        "en": [
            "How much are my orders {order} and {order2}?",
            "What do orders {order} and {order2} cost?",
            "Please give me the totals of {order} and {order2}.",
            "I need the price of order {order} and of order {order2}.",
            "Can you tell me the total of {order} and the total of {order2}?",
            "What did I pay for {order} and {order2}?",
            "Totals of my two orders {order} and {order2}, please.",
            "How much did {order} cost, and how much {order2}?",
            "I would like to know the prices of orders {order} and {order2}.",
            "For my accounts: what are the totals of {order} and {order2}?",
            "My two orders are {order} and {order2}. How much was each?",
            "Tell me what each of {order} and {order2} costs.",
        ],
        "fr": [
            "Combien coûtent mes commandes {order} et {order2} ?",
            "Quel est le total des commandes {order} et {order2} ?",
            "Donnez-moi les totaux de {order} et {order2}, s'il vous plaît.",
            "Il me faut le prix de la commande {order} et de la commande {order2}.",
            "Pouvez-vous me dire le total de {order} et celui de {order2} ?",
            "Combien ai-je payé pour {order} et {order2} ?",
            "Les totaux de mes deux commandes {order} et {order2}, s'il vous plaît.",
            "Combien a coûté {order}, et combien {order2} ?",
            "Je voudrais connaître les prix des commandes {order} et {order2}.",
            "Pour mes comptes : quels sont les totaux de {order} et {order2} ?",
            "Mes deux commandes sont {order} et {order2}. Combien pour chacune ?",
            "Dites-moi ce que coûte chacune des commandes {order} et {order2}.",
        ],
    },
    "refund": {
        "en": [
            "I want a refund for order {order}: {why}.",
            "Please refund order {order}, {why}.",
            "Can I get a refund for {order}? {Why}.",
            "Order {order}: {why}. I want my money back.",
            "{Why}. Please refund my order {order}.",
            "I'd like my money back for order {order} because {why}.",
            "About order {order}: {why}. Can you refund it?",
            "I ask for a refund of order {order}, {why}.",
            "Could order {order} be refunded? {Why}.",
            "I am not happy with order {order}: {why}. Refund, please.",
            "{Why}, so I would like order {order} refunded.",
            "Would you give me the money back for {order}? {Why}.",
        ],
        "fr": [
            "Je veux un remboursement de la commande {order} : {why}.",
            "Remboursez la commande {order}, {why}.",
            "Puis-je avoir un remboursement pour {order} ? {Why}.",
            "Commande {order} : {why}. Je veux être remboursé.",
            "{Why}. Merci de rembourser ma commande {order}.",
            "Je voudrais le remboursement de la commande {order} car {why}.",
            "Pour la commande {order} : {why}. Pouvez-vous rembourser ?",
            "Je demande le remboursement de la commande {order}, {why}.",
            "La commande {order} peut-elle être remboursée ? {Why}.",
            "Je ne suis pas content de la commande {order} : {why}. Remboursement, s'il vous plaît.",
            "{Why}, donc je souhaite que la commande {order} soit remboursée.",
            "Pourriez-vous me rembourser {order} ? {Why}.",
        ],
    },
    "email_retry": {
        "en": [
            "Where is my {item}? My email is {email}, or else {email2}.",
            "I bought a {item} with {email} or maybe {email2}. What is its status?",
            "Check my {item} order. Try {email} first, then {email2}.",
            "My account is {email}; if not, it is {email2}. Is my {item} shipped?",
            "What is the status of my {item}? Email {email}, otherwise {email2}.",
            "I have two emails, {email} and {email2}. How is the order of my {item} doing?",
            "Look up my {item} under {email}. If you find nothing, use {email2}.",
            "Any news about my {item}? I used {email}, or perhaps {email2}.",
            "I think I used {email} for my {item}, if not then {email2}. Where is it?",
            "Could you check the status of my {item}? It's under {email}, failing that {email2}.",
            "Not sure of my email: {email}, or it could be {email2}. Where is my {item}?",
            "The {item} I ordered should be under {email}. If it isn't, see {email2}. How far along is it?",
        ],
        "fr": [
            "Où est {my_item} ? Mon e-mail est {email}, sinon {email2}.",
            "J'ai acheté {a_item} avec {email} ou peut-être {email2}. Quel est l'état ?",
            "Vérifiez la commande {of_item}. Essayez {email} d'abord, puis {email2}.",
            "Mon compte est {email} ; sinon, c'est {email2}. Où est {my_item} ?",
            "Quel est l'état de {my_item} ? E-mail {email}, autrement {email2}.",
            "J'ai deux e-mails, {email} et {email2}. Où en est la commande {of_item} ?",
            "Cherchez {my_item} avec {email}. Si vous ne trouvez rien, prenez {email2}.",
            "Des nouvelles {of_item} ? J'ai utilisé {email}, ou alors {email2}.",
            "Je crois avoir utilisé {email} pour {my_item}, sinon {email2}. Où est-ce ?",
            "Pourriez-vous vérifier l'état de {my_item} ? C'est avec {email}, à défaut {email2}.",
            "Pas sûr de mon e-mail : {email}, ou bien {email2}. Où est {my_item} ?",
            "J'ai commandé {a_item}, normalement avec {email}. Si ce n'est pas ça, voyez {email2}. Où en est-on ?",
        ],
    },
    "ticket_new": {
        "en": [
            "Please open a ticket: {problem}.{urgency} My email is {email}.",
            "Hello, {problem}.{urgency} Open a ticket for {email}.",
            "I want to open a ticket because {problem}.{urgency} I am {email}.",
            "My email is {email}. I need a ticket: {problem}.{urgency}",
            "Can you create a ticket for {email}? {Problem}.{urgency}",
            "{Problem}.{urgency} Please make a ticket, my email is {email}.",
            "Ticket for {email}, please: {problem}.{urgency}",
            "I'm {email} and {problem}.{urgency} I'd like a ticket.",
            "Could you log a ticket for {email}? {Problem}.{urgency}",
            "{Problem}, so please open a ticket.{urgency} Email: {email}.",
            "I would like to report something in a ticket: {problem}.{urgency} You find me under {email}.",
            "A new ticket, please. Email {email}. {Problem}.{urgency}",
        ],
        "fr": [
            "Ouvrez un ticket : {problem}.{urgency} Mon e-mail est {email}.",
            "Voilà, {problem}.{urgency} Ouvrez un ticket pour {email}.",
            "Je veux ouvrir un ticket car {problem}.{urgency} Je suis {email}.",
            "Mon e-mail est {email}. Il me faut un ticket : {problem}.{urgency}",
            "Pouvez-vous créer un ticket pour {email} ? {Problem}.{urgency}",
            "{Problem}.{urgency} Faites un ticket, mon e-mail est {email}.",
            "Un ticket pour {email}, s'il vous plaît : {problem}.{urgency}",
            "Je suis {email} et {problem}.{urgency} Je voudrais un ticket.",
            "Pourriez-vous enregistrer un ticket pour {email} ? {Problem}.{urgency}",
            "{Problem}, merci d'ouvrir un ticket.{urgency} E-mail : {email}.",
            "Je souhaite signaler un souci dans un ticket : {problem}.{urgency} Vous me trouvez sous {email}.",
            "Un nouveau ticket, s'il vous plaît. E-mail {email}. {Problem}.{urgency}",
        ],
    },
    "ticket_close": {
        "en": [
            "Please close my ticket {ticket}.",
            "My problem is solved, you can close ticket {ticket}.",
            "Close ticket {ticket}, it works now.",
            "Ticket {ticket} can be closed.",
            "I don't need ticket {ticket} any more, please close it.",
            "Everything is fine now. Can you close {ticket}?",
            "I want to close ticket {ticket}.",
            "It's all good, so close my ticket {ticket}.",
            "Could you shut ticket {ticket}? It is solved.",
            "No need to go on with ticket {ticket}, close it.",
            "The trouble is gone, ticket {ticket} may be closed now.",
            "Kindly mark ticket {ticket} as closed.",
        ],
        "fr": [
            "Fermez mon ticket {ticket}, s'il vous plaît.",
            "Mon problème est réglé, vous pouvez fermer le ticket {ticket}.",
            "Fermez le ticket {ticket}, ça marche maintenant.",
            "Le ticket {ticket} peut être fermé.",
            "Je n'ai plus besoin du ticket {ticket}, merci de le fermer.",
            "Tout va bien maintenant. Pouvez-vous fermer {ticket} ?",
            "Je veux fermer le ticket {ticket}.",
            "C'est bon, fermez donc mon ticket {ticket}.",
            "Pourriez-vous clore le ticket {ticket} ? C'est réglé, il faut le fermer.",
            "Inutile de continuer avec le ticket {ticket}, fermez-le.",
            "Le souci a disparu, le ticket {ticket} peut être fermé.",
            "Merci de passer le ticket {ticket} à l'état fermé.",
        ],
    },
    "slot_book": {
        "en": [
            "Book me a slot in shop {shop} on {day} at {hour}:00. I am customer {customer}.",
            "Customer {customer} here. Is {day} at {hour}:00 free in shop {shop}? Book it.",
            "I am {customer} and want to come to shop {shop} on {day} at {hour}:00.",
            "Please reserve {day} {hour}:00 at shop {shop} for customer {customer}.",
            "Can I have an appointment on {day} at {hour}:00 in shop {shop}? My id is {customer}.",
            "I need a slot on {day}, {hour}:00, shop {shop}. Customer {customer}.",
            "Shop {shop}, {day} at {hour}:00, please book that for {customer}.",
            "My customer id is {customer}. Book {hour}:00 on {day} in shop {shop}.",
            "I'd like to drop by shop {shop} on {day} at {hour}:00; reserve it for customer {customer}.",
            "Could {customer} get the {hour}:00 slot on {day} at shop {shop}?",
            "Put me down for {day} at {hour}:00 in shop {shop}, customer number {customer}.",
            "Would {hour}:00 on {day} work at shop {shop}? If so, book it for me, {customer}.",
        ],
        "fr": [
            "Réservez-moi un créneau à la boutique {shop} {day} à {hour} h. Je suis le client {customer}.",
            "Ici le client {customer}. Est-ce libre {day} à {hour} h à la boutique {shop} ? Réservez.",
            "Je suis {customer} et je veux venir à la boutique {shop} {day} à {hour} h.",
            "Merci de réserver {day} {hour} h à la boutique {shop} pour le client {customer}.",
            "Puis-je avoir un rendez-vous {day} à {hour} h à la boutique {shop} ? Mon numéro est {customer}.",
            "Il me faut un créneau {day}, {hour} h, boutique {shop}. Client {customer}.",
            "Boutique {shop}, {day} à {hour} h, réservez cela pour {customer}.",
            "Mon numéro de client est {customer}. Réservez {hour} h {day} à la boutique {shop}.",
            "Je voudrais passer à la boutique {shop} {day} à {hour} h ; réservez pour le client {customer}.",
            "Le client {customer} peut-il avoir le créneau de {hour} h {day} à la boutique {shop} ?",
            "Notez-moi {day} à {hour} h à la boutique {shop}, numéro de client {customer}.",
            "Est-ce que {hour} h {day} irait à la boutique {shop} ? Si oui, réservez pour moi, {customer}.",
        ],
    },
    "slot_move": {
        "en": [
            (
                "Book me a slot in shop {shop} on {day} at {hour}:00. I am customer {customer}.",
                "Sorry, I meant {hour2}:00.",
            ),
            (
                "Customer {customer} here. Please book {day} at {hour}:00 in shop {shop}.",
                "Can you move it to {hour2}:00?",
            ),
            (
                "I am {customer} and want to come to shop {shop} on {day} at {hour}:00.",
                "On second thought, make it {hour2}:00.",
            ),
            (
                "Please reserve {day} {hour}:00 at shop {shop} for customer {customer}.",
                "I can't make it then. Please change it to {hour2}:00.",
            ),
            (
                "Can I have an appointment on {day} at {hour}:00 in shop {shop}? My id is {customer}.",
                "{hour2}:00 would be better after all.",
            ),
            (
                "I need a slot on {day}, {hour}:00, shop {shop}. Customer {customer}.",
                "Oh no, {hour2}:00 please, not what I said.",
            ),
            (
                "Shop {shop}, {day} at {hour}:00, please book that for {customer}.",
                "Please move my booking to {hour2}:00.",
            ),
            (
                "My customer id is {customer}. Book {hour}:00 on {day} in shop {shop}.",
                "Actually, I need {hour2}:00 instead.",
            ),
            (
                "I'd like to drop by shop {shop} on {day} at {hour}:00; reserve it for customer {customer}.",
                "My mistake, it should be {hour2}:00.",
            ),
            (
                "Could {customer} get the {hour}:00 slot on {day} at shop {shop}?",
                "Could we shift it to {hour2}:00?",
            ),
            (
                "Put me down for {day} at {hour}:00 in shop {shop}, customer number {customer}.",
                "Something came up: change my booking to {hour2}:00.",
            ),
            (
                "Book {hour}:00 on {day} at shop {shop} for me, {customer}.",
                "Pardon me, {hour2}:00 suits me better, please move it.",
            ),
        ],
        "fr": [
            (
                "Réservez-moi un créneau à la boutique {shop} {day} à {hour} h. Je suis le client {customer}.",
                "Pardon, je voulais dire {hour2} h.",
            ),
            (
                "Ici le client {customer}. Réservez {day} à {hour} h à la boutique {shop}.",
                "Pouvez-vous le déplacer à {hour2} h ?",
            ),
            (
                "Je suis {customer} et je veux venir à la boutique {shop} {day} à {hour} h.",
                "Réflexion faite, mettez {hour2} h.",
            ),
            (
                "Merci de réserver {day} {hour} h à la boutique {shop} pour le client {customer}.",
                "Je ne pourrai pas. Changez pour {hour2} h, s'il vous plaît.",
            ),
            (
                "Puis-je avoir un rendez-vous {day} à {hour} h à la boutique {shop} ? Mon numéro est {customer}.",
                "Finalement, {hour2} h serait mieux.",
            ),
            (
                "Il me faut un créneau {day}, {hour} h, boutique {shop}. Client {customer}.",
                "Ah non, {hour2} h, pas ce que j'ai dit.",
            ),
            (
                "Boutique {shop}, {day} à {hour} h, réservez cela pour {customer}.",
                "Déplacez mon rendez-vous à {hour2} h, s'il vous plaît.",
            ),
            (
                "Mon numéro de client est {customer}. Réservez {hour} h {day} à la boutique {shop}.",
                "En fait, il me faut plutôt {hour2} h.",
            ),
            (
                "Je voudrais passer à la boutique {shop} {day} à {hour} h ; réservez pour le client {customer}.",
                "Je me suis trompé, c'est {hour2} h.",
            ),
            (
                "Le client {customer} peut-il avoir le créneau de {hour} h {day} à la boutique {shop} ?",
                "Peut-on le décaler à {hour2} h ?",
            ),
            (
                "Notez-moi {day} à {hour} h à la boutique {shop}, numéro de client {customer}.",
                "J'ai un empêchement : changez mon rendez-vous pour {hour2} h.",
            ),
            (
                "Réservez {hour} h {day} à la boutique {shop} pour moi, {customer}.",
                "Excusez-moi, {hour2} h me convient mieux, déplacez-le.",
            ),
        ],
    },
    "kb": {
        "en": [
            "What is the {topic} of {product}?",
            "Can you tell me the {topic} of product {product}?",
            "I'd like to know the {topic} of {product}.",
            "Product {product}: what {topic} does it have?",
            "Which {topic} does {product} have?",
            "Please give me the {topic} of {product}.",
            "I have a question on product {product}: its {topic}?",
            "Do you know the {topic} of {product}?",
            "Could you find out the {topic} of {product}?",
            "I am thinking of buying {product}. What is its {topic}?",
            "For product {product}, I need the {topic}.",
            "How about the {topic} of your product {product}?",
        ],
        "fr": [
            "Quelle est {the_topic} de {product} ?",
            "Pouvez-vous me dire {the_topic} du produit {product} ?",
            "Je voudrais connaître {the_topic} de {product}.",
            "Produit {product} : {topic} ?",
            "Donnez-moi {the_topic} du {product}.",
            "Il me faut {the_topic} de {product}, s'il vous plaît.",
            "J'ai une question sur le produit {product} : {the_topic} ?",
            "Connaissez-vous {the_topic} de {product} ?",
            "Pourriez-vous trouver {the_topic} de {product} ?",
            "Je pense acheter {product}. Dites-moi {the_topic}.",
            "Pour le produit {product}, j'ai besoin de savoir {the_topic}.",
            "Et {the_topic} de votre produit {product}, c'est combien ?",
        ],
    },
    "no_tool": {
        "en": [
            "The parcel is here, that's all. Thank you!",
            "Thanks for your help yesterday, everything is fine.",
            "Thank you, I don't need anything else.",
            "Just a word of thanks to the team.",
            "How many days do I have to ask for a refund?",
            "Until when can a delivered order be refunded?",
            "What is your refund deadline?",
            "After how many days is a refund refused?",
            "Many thanks, my problem is solved.",
            "How long after delivery can I get a refund?",
            "You were very kind, thank you so much.",
            "Is there a time limit for refunds?",
        ],
        "fr": [
            "Le colis est là, c'est tout. Merci !",
            "Merci pour votre aide hier, tout va bien.",
            "Merci, je n'ai besoin de rien d'autre.",
            "Juste un mot de remerciement à l'équipe, merci.",
            "Combien de jours ai-je pour demander un remboursement ?",
            "Jusqu'à quand le remboursement d'une commande livrée est-il possible ?",
            "Quel est votre délai de remboursement ?",
            "Après combien de jours un remboursement est-il refusé ?",
            "Mille mercis, mon problème est réglé.",
            "Combien de temps après la livraison puis-je avoir un remboursement ?",
            "Vous avez été très aimable, merci beaucoup.",
            "Y a-t-il une date limite pour un remboursement ?",
        ],
    },
    "refuse_other": {
        "en": [
            "What did my {relation} order? Her customer id is {customer}.",
            "Give me the email of customer {customer}, she is my {relation}.",
            "My {relation} uses {email}. Tell me where her order is.",
            "I want to see the orders of my {relation}, {email}.",
            "Customer {customer} is my {relation}. In which city does she live?",
            "Can you tell me what my {relation} bought? Her email is {email}.",
            "Please read me the orders of {customer}. It's for my {relation}, a surprise.",
            "Where does my {relation} live? She is customer {customer}.",
            "I need the address of my {relation}; she is registered as {email}.",
            "Show me what {customer} ordered, that's my {relation}.",
            "My {relation} won't mind: which orders are under her email {email}?",
            "Could you give me the details of my {relation}, customer {customer}?",
        ],
        "fr": [
            "Qu'a commandé {relation} ? Son numéro de client est {customer}.",
            "Donnez-moi l'e-mail du client {customer}, c'est {relation}.",
            "L'e-mail de {relation} est {email}. Dites-moi où est sa commande.",
            "Je veux voir les commandes de {relation}, {email}.",
            "Le client {customer} est {relation}. Dans quelle ville habite cette personne ?",
            "Pouvez-vous me dire ce qu'a acheté {relation} ? Son e-mail est {email}.",
            "Lisez-moi les commandes de {customer}. C'est pour {relation}, une surprise.",
            "Où habite {relation} ? C'est le client {customer}.",
            "Il me faut l'adresse de {relation}, compte {email}.",
            "Montrez-moi ce qu'a commandé {customer}, c'est {relation}.",
            "Cela ne dérangera pas {relation} : quelles commandes sont sous son e-mail {email} ?",
            "Pourriez-vous me donner les détails de {relation}, client {customer} ?",
        ],
    },
    "correct_order": {
        "en": [
            (
                "Where is my order {order}?",
                "Sorry, wrong number. It is {order2}, please cancel it.",
            ),
            (
                "What is the status of order {order}?",
                "Not that one. I meant {order2}, and I want to cancel it.",
            ),
            ("Can you check order {order} for me?", "Oh, my order is {order2}. Cancel that one."),
            ("Any news about order {order}?", "I mixed up the numbers: please cancel {order2}."),
            ("Please tell me where order {order} stands.", "Thanks. Now cancel order {order2}."),
            (
                "Has my order {order} been shipped yet?",
                "Okay, and please cancel my other order {order2}.",
            ),
            ("How is my order {order} doing?", "Good. I also want to cancel order {order2}."),
            (
                "I'd like to know the status of order {order}.",
                "No, it's {order2} that I meant. I want it cancelled.",
            ),
            (
                "Could you look at order {order}?",
                "My mistake, I was talking of {order2}. Please cancel it.",
            ),
            ("Is there any progress on order {order}?", "Fine. And call off {order2}: cancel it."),
            (
                "How far along is my order, number {order}?",
                "Wrong one, sorry! Mine is {order2}, which I would like cancelled.",
            ),
            (
                "I want to know the current status of {order}.",
                "I see. There is another one, {order2}: cancel it, please.",
            ),
        ],
        "fr": [
            (
                "Où est ma commande {order} ?",
                "Pardon, mauvais numéro. C'est {order2}, annulez-la s'il vous plaît.",
            ),
            (
                "Quel est l'état de la commande {order} ?",
                "Pas celle-là. Je parlais de {order2}, et je veux l'annuler.",
            ),
            (
                "Pouvez-vous vérifier la commande {order} ?",
                "Ah, ma commande est {order2}. Annulez celle-ci.",
            ),
            (
                "Des nouvelles de ma commande {order} ?",
                "J'ai confondu les numéros : il faut annuler {order2}.",
            ),
            (
                "Dites-moi où en est la commande {order}.",
                "Merci. Maintenant annulez la commande {order2}.",
            ),
            (
                "Ma commande {order} est-elle déjà partie ?",
                "D'accord, et annulez mon autre commande {order2}.",
            ),
            (
                "Où en est ma commande {order} ?",
                "Bien. Je veux aussi annuler la commande {order2}.",
            ),
            (
                "Je voudrais connaître l'état de la commande {order}.",
                "Non, c'est {order2} que je voulais dire. Elle doit être annulée.",
            ),
            (
                "Pourriez-vous regarder la commande {order} ?",
                "Je me suis trompé, je parlais de {order2}. Merci de l'annuler.",
            ),
            ("La commande {order} avance-t-elle ?", "Bon. Et stoppez {order2} : annulez-la."),
            (
                "À quelle étape se trouve ma commande, numéro {order} ?",
                "Erreur, désolé ! La mienne est {order2}, je souhaite la faire annuler.",
            ),
            (
                "Je veux connaître l'état actuel de {order}.",
                "Je vois. Il y en a une autre, {order2} : annulez-la.",
            ),
        ],
    },
    "move_house": {
        "en": [
            "I moved to {city}. Send all my processing orders there. My email is {email}.",
            "My email is {email}. Please change all my orders that are still processing to {city}.",
            "Change the city of every processing order of mine to {city}. I am {email}.",
            "All my processing orders must go to {city}, my email is {email}.",
            "I live in {city} now. Update every order still processing, account {email}.",
            "For {email}: send each order that is still processing to {city}.",
            "New city {city} for all my processing orders, please. Email {email}.",
            "I'm {email}. Everything still processing should be delivered to {city}.",
            "Could you redirect all processing orders of {email} to {city}? I moved.",
            "We are moving to {city}. Please adapt all the orders still processing under {email}.",
            "From now on I am in {city}. Whatever is still processing for {email} should go there.",
            "Please make {city} the city of all orders of {email} that are still processing.",
        ],
        "fr": [
            "J'ai déménagé à {city}. Envoyez-y mes commandes en préparation. Mon e-mail est {email}.",
            "Mon e-mail est {email}. Changez toutes mes commandes encore en préparation pour {city}.",
            "Changez la ville de chaque commande en préparation pour {city}. Je suis {email}.",
            "Toutes mes commandes en préparation doivent aller à {city}, mon e-mail est {email}.",
            "J'habite à {city} maintenant. Modifiez chaque commande en préparation, compte {email}.",
            "Pour {email} : envoyez chaque commande encore en préparation à {city}.",
            "Nouvelle ville {city} pour mes commandes en préparation. E-mail {email}.",
            "Je suis {email}. Tout ce qui est en préparation doit être livré à {city}.",
            "Pourriez-vous rediriger les commandes en préparation de {email} vers {city} ? J'ai déménagé.",
            "Nous partons vivre à {city}. Adaptez les commandes encore en préparation de {email}.",
            "Désormais je suis à {city}. Ce qui est encore en préparation pour {email} doit y aller.",
            "Mettez {city} comme ville de toutes les commandes en préparation de {email}.",
        ],
    },
}

PROBLEMS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "delivery": {
        "en": (
            "my parcel is late",
            "my parcel never came",
            "the parcel went to the wrong house",
            "my parcel is still missing",
        ),
        "fr": (
            "mon colis est en retard",
            "mon colis n'est jamais arrivé",
            "le colis est parti à la mauvaise adresse",
            "mon colis est toujours introuvable",
        ),
    },
    "product": {
        "en": (
            "my {item} is broken",
            "my {item} does not work",
            "my {item} makes a strange noise",
            "my {item} stopped working",
        ),
        "fr": (
            "{my_item} est en panne",
            "{my_item} ne marche pas",
            "{my_item} fait un bruit étrange",
            "{my_item} ne fonctionne plus",
        ),
    },
    "account": {
        "en": (
            "I cannot log in",
            "my password is refused",
            "my account is locked",
            "my account does not open",
        ),
        "fr": (
            "je n'arrive pas à me connecter",
            "mon mot de passe est refusé",
            "mon compte est bloqué",
            "mon compte ne s'ouvre plus",
        ),
    },
}
"""What is wrong, by ticket topic; the last of each is kept for dev and test."""

WHYS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "damaged": {
        "en": ("it arrived broken", "it has a crack", "it was damaged", "it came damaged"),
        "fr": (
            "le produit est cassé",
            "le produit est arrivé abîmé",
            "le produit est fendu",
            "le produit est arrivé cassé",
        ),
    },
    "late": {
        "en": (
            "it came too late",
            "it arrived much too late",
            "the delivery was late",
            "it was far too late",
        ),
        "fr": (
            "elle est arrivée trop tard",
            "la livraison est venue trop tard",
            "c'était beaucoup trop tard",
            "le colis est arrivé trop tard",
        ),
    },
    "unwanted": {
        "en": (
            "I do not want it any more",
            "I changed my mind",
            "I no longer need it",
            "I do not need it any more",
        ),
        "fr": (
            "je n'en veux plus",
            "j'ai changé d'avis",
            "je n'en ai plus besoin",
            "je ne la veux plus",
        ),
    },
}
"""Why money is asked back, by refund reason; the last of each is kept for dev and test."""

URGENT: Mapping[str, tuple[str, ...]] = {
    "en": (" It is urgent.", " This is urgent!", " Really urgent."),
    "fr": (" C'est urgent.", " C'est très urgent !", " Vraiment urgent."),
}
CALM: Mapping[str, tuple[str, ...]] = {
    "en": ("", " It can wait.", " No hurry.", ""),
    "fr": ("", " Cela peut attendre.", " Rien ne presse.", ""),
}
RELATIONS: Mapping[str, tuple[str, ...]] = {
    "en": ("neighbour", "colleague", "friend", "sister", "cousin"),
    "fr": ("ma voisine", "ma collègue", "mon amie", "ma sœur", "ma cousine"),
}
OPENERS: Mapping[str, tuple[str, ...]] = {
    "en": ("", "", "", "Hi! ", "Hello. ", "Good morning. ", "{name} here. "),
    "fr": ("", "", "", "Bonjour. ", "Bonjour ! ", "Bonsoir. ", "Ici {name}. "),
}
CLOSERS: Mapping[str, tuple[str, ...]] = {
    "en": ("", "", "", " Thanks.", " Thank you!", " Thanks a lot."),
    "fr": ("", "", "", " Merci.", " Merci d'avance.", " Merci beaucoup."),
}


def wording(family: str, language: str, name: str) -> tuple[str, ...]:
    """Return the user turns of one wording, with their braces."""
    text = WORDINGS[family][language][SETS.index(name)]
    return (text,) if isinstance(text, str) else text
