"""The Chinese prose of docs/zh-CN/tasks.md, by the English prose that it translates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.shape import tasks_page as english

CHINESE: Final[Mapping[str, str]] = {
    english.HEAD: """\
# 各任务中模型的输入

对每个任务和每种架构类型，训练、`generate` 和 `eval` 使用同一种提示格式。本页用 `llmctl show data` 打印各任务的一条记录，展示这种格式：`·` 表示空格，`↵` 表示行尾，`<|…|>` 是特殊 token；**[方括号中的 token] 计入损失**，其余都不计入。文本本身的方括号打印为 `\\[` 或 `\\]`。分词器选用 `word`，因为它的 token 便于阅读；换用其他分词器，只是切分方式不同。页面中的输出全部来自其上方的命令；整个页面由 `python -m tests.shape.tasks_page docs` 生成。

| 架构类型 | 模型 | 模型的输入 | 计入损失的部分 |
|---|---|---|---|
| decoder | `rnn`、`lstm`、`attention`、`gpt2`、`llama` | 一个序列：提示词在前，答案在后 | 答案 |
| encoder-decoder | `lstm-seq2seq`、`t5`、`marian`、`bart` | 提示词作为源序列 | 作为目标序列的答案 |
| encoder | `lstm-classifier`、`bert` | 文本 | 标签，通过分类头预测 |
| speech-seq2seq | `whisper` | 录音，以 log-mel 特征表示 | 作为目标序列的转写文本 |
| ctc | `ctc` | 录音，以 log-mel 特征表示 | 转写文本，不含结束 token |
""",
    english.LANGUAGE_MODELING: """\
## 语言建模

每个文档前后加上 `<|bos|>` 和 `<|eos|>`，首尾相接，打包成长度为 `block_size` 个 token 的块。decoder 根据前面的 token 预测每个 token。以下是一首英文诗和一首中文诗：
""",
    english.PLAIN_TEXT: """\
### encoder 和 encoder-decoder 的预训练

对同样的纯文本，encoder 和 encoder-decoder 以去噪为训练目标。每个 epoch 都重新生成噪声。噪声比例默认采用论文中的数值，可用 `train --set noise_density=0.4` 修改；验证始终使用论文中的比例，这样损失才可比。`bert` 预测被掩码的 token，掩码比例为 15%：其中大部分替换为 `<|mask|>`，一部分替换为其他 token，一部分保持不变（显示为 `输入 → 目标`），方法来自 Devlin et al. 2019：
""",
    english.SPANS: """\
`t5` 预测被移除的片段，共占文本的 15%，每个片段前有一个哨兵 token（Raffel et al. 2020）。用 llmctl 训练的分词器只有一个掩码 token，所有片段共用；分词器带有 `<extra_id_0>` 等 token 时，则使用这些 token：
""",
    english.DENOISING: """\
`bart`、`marian` 和 `lstm-seq2seq` 预测完整的文本。输入中的句子和行被打乱顺序，并有共占 30% 的片段被掩码，方法来自 Lewis et al. 2020：
""",
    english.TRANSLATION: """\
## 翻译

decoder 把源文本、`<|sep|>` 和译文作为一个序列读取。答案的结束符也计入损失，模型由此学会何时停止。
""",
    english.SUMMARIZATION: """\
## 摘要

与翻译相同。记录超出模型上下文时，截去原文的末尾，而不是摘要。
""",
    english.QUESTION_ANSWERING: """\
## 问答

如果有 `context`，则放在问题之前，中间以 `<|sep|>` 分隔。有多个正确答案时，第一个用作训练目标；`eval` 时答对任意一个都算正确。
""",
    english.CHAT: """\
## 对话

只有 decoder 支持对话。`assistant` 的每一轮都计入损失，包括对话中间的轮次；`user` 和 `system` 的轮次不计入。模型目录中的对话模板采用同样的格式。
""",
    english.PREFERENCE: """\
## 偏好对

偏好微调读取两个回答，各自接在同一个提示之后，格式与起始模型相同。
""",
    english.CLASSIFICATION: """\
## 分类

encoder 带有分类头。decoder 和 encoder-decoder 把标签名作为答案来学习，预测时选择似然最高的标签。
""",
    english.SPEECH: """\
## 语音识别

模型的输入是录音，转写文本全部计入损失。`whisper` 逐个 token 写出文本，直到结束 token；`ctc` 为每 20 毫秒分配一个 token 或空白符，因此文本不需要结束 token。详见[语音识别](speech.md)：
""",
    english.GIVEN: """\
## 预训练权重

预训练模型沿用自己的分词器和特殊 token；`--model` 填模型目录。如果 decoder 的分词器带有对话模板，除语言建模外的所有任务都以对话形式输入：指令和输入组成一条 `user` 消息，答案是 `assistant` 的回复（`style template`）。如果既没有模板，也没有上面的特殊 token，则输入、指令和答案依次排列，中间以空行隔开（`style plain`）。指令默认取自任务，可在 `train`、`generate` 或 `eval` 中用 `--set instruction=TEXT` 替换（在 `show data` 中用 `--instruction`）；模型会一直沿用训练时的指令。下面用一个几乎未经训练的对话模型代替下载的模型：
""",
}
